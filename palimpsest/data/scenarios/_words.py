"""Words: which names and things are there in the generated world?"""

from __future__ import annotations

NAMES = (
    "Nora",
    "Tom",
    "Ann",
    "Ben",
    "Eva",
    "Max",
    "Ida",
    "Leo",
    "Mia",
    "Sam",
    "Ada",
    "Joe",
    "Lily",
    "Hugo",
    "Rose",
    "Paul",
    "Emma",
    "Karl",
    "Jane",
    "Otto",
    "Ruth",
    "Finn",
    "Vera",
    "Luke",
    "Anna",
    "Mark",
    "Nell",
    "Owen",
    "Kate",
    "Noah",
    "Lena",
    "Ivan",
    "Rita",
    "Dan",
    "Tess",
    "Adam",
    "Maya",
    "Carl",
    "Iris",
    "Jack",
)
COLOURS = ("red", "blue", "green", "white", "black", "pink")
ITEMS = ("map", "key", "book", "ball", "ring", "coin", "drum", "kite", "bell", "flag")
GROUPS = {
    "animals": ("cat", "dog", "fox", "owl", "cow", "hen", "bee", "pig", "horse", "mouse"),
    "foods": ("soup", "bread", "rice", "cheese", "honey", "apple", "cake", "bean", "plum", "nut"),
    "colours": (*COLOURS, "yellow", "brown", "grey", "purple"),
    "tools": ("saw", "hammer", "spade", "brush", "knife", "broom", "pump", "drill", "nail", "ladder"),
}
QUESTION_WEIGHT = 0.03
"""Loss weight of what is not an answer: at full weight the noise of the questions hides what the answers teach."""
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def capital(word: str) -> str:
    """Return the word as it stands at the start of a message."""
    return word[0].upper() + word[1:]
