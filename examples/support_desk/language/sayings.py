"""The agent's messages: paraphrases per intent."""

from __future__ import annotations

from .phrases import money
from .words import CITIES, DAYS

__all__ = ["CITIES", "DAYS", "money"]

TELL = {
    "cancel": ("Done, {o} is cancelled.", "I have cancelled {o}.", "{o} is now cancelled."),
    "return": (
        "A return for {o} is open. The code is {code}.",
        "I opened a return for {o}, the code is {code}.",
        "The return is open, your code is {code}.",
    ),
    "refund": (
        "I have refunded {a} for {o}.",
        "Done, {a} is refunded.",
        "Your refund of {a} for {o} is on its way.",
    ),
    "address": (
        "The address of {o} is now {d}.",
        "Done, I changed the address to {d}.",
        "I have changed the address of {o} to {d}.",
    ),
    "track": (
        "{o} is in {city} and arrives on {day}.",
        "It is in {city}, the day is {day}.",
        "The parcel is in {city}. It comes on {day}.",
    ),
    "product": (
        "The {p} is {price}, {stock} in stock.",
        "The price of the {p} is {price}. We have {stock} in stock.",
        "{p}: {price}, {stock} in stock.",
    ),
}
RETURN_NO_CODE = ("A return for {o} is open.", "I opened a return for {o}.")
ONLY_STATUS = ("The status of {o} is {status}.", "{o} is {status}.")
ONLY_PLACE = ("{o} is in {city}.", "The parcel is in {city}.")
ONLY_PRICE = ("The {p} is {price}.", "The price is {price}.")
ASK_ORDER = (
    "What is the order number?",
    "Can you tell me the order number?",
    "Which order is it? I need the number.",
)
ASK_AMOUNT = ("How much is it?", "What is the amount?")
ASK_ADDRESS = ("What is the new address?", "To which address?")
ASK_PRODUCT = ("Which product is it?", "Which product and which colour?")
NO_NUMBER = ("Sorry, I cannot find your order.", "Sorry, I cannot help with that.")
SORRY = ("Sorry, {reason}.", "I am sorry, {reason}.", "Unfortunately {reason}.")
HANDED_OVER = (
    "Sorry, {reason}. A colleague will help you.",
    "Unfortunately {reason}. I asked a colleague to look at it.",
)
NOTHING_MORE = ("I am sorry, I cannot do more.", "Sorry, that is all I can do.")
WHAT = ("How can I help?", "What can I do for you?")
GOODBYE = ("You are welcome.", "Bye!", "Glad to help. Have a nice day.")
