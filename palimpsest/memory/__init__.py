"""Memory: which mistakes did the model make in real conversations, and do they come back?"""
