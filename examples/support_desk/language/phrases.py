"""The customers' messages: paraphrases per intent, varied by temperament.

Placeholders: `{o}` names the order, `{a}` an amount, `{d}` an address, `{p}` a product.
"""

from __future__ import annotations

import random

from ..tasks import Goal, Task

OPENINGS = {
    "cancel": (
        "please cancel {o}.",
        "i want to cancel {o}, i ordered it by mistake.",
        "can you cancel {o}? i do not need it any more.",
        "i changed my mind, cancel {o} please.",
    ),
    "return": (
        "i want to send back {o}.",
        "{o} is too big, i want to return it.",
        "can i return {o}? i do not like it.",
        "i would like to send {o} back.",
    ),
    "refund": (
        "i was charged {a} too much for {o}, please refund it.",
        "please refund {a} for {o}, you charged too much.",
        "{o} was {a} cheaper on your page. i want that refunded.",
        "you owe me a refund of {a} for {o}.",
    ),
    "address": (
        "please change the address of {o} to {d}.",
        "i moved. the new address for {o} is {d}.",
        "can you ship {o} to {d} instead? my address is new.",
        "the address of {o} is wrong, it should be {d}.",
    ),
    "track": (
        "where is {o} and when does it arrive?",
        "{o} is not here yet. where is it now?",
        "when will {o} arrive and where is it?",
        "can you track {o} for me?",
    ),
    "product": (
        "what is the price of the {p} and how many do you have in stock?",
        "do you have the {p} in stock? what is the price?",
        "i am looking for the {p}. price and stock please.",
        "how much is the {p} and how many are in stock?",
    ),
}
TERSE = {
    "cancel": ("cancel {o}", "{o}, cancel it"),
    "return": ("return {o}", "send back {o}"),
    "refund": ("refund {a} on {o}", "{o}: refund {a}"),
    "address": ("{o}: new address {d}", "address of {o} to {d}"),
    "track": ("where is {o}?", "track {o}"),
    "product": ("{p}: price and stock?", "price and stock of {p}"),
}
PREFIXES = {
    "patient": ("Hello, ", "Hi, ", "Good day, ", ""),
    "impatient": ("", "Quick: ", "This is urgent, "),
    "forgetful": ("Hi, ", "", "Hello, "),
    "chatty": (
        "Hi, I hope you are well. ",
        "Hello, it is my first time here. ",
        "Hi there, what a long week. ",
        "Good day, my sister loves your shop. ",
    ),
}
SUFFIXES = {
    "patient": ("", " thank you.", " thanks in advance."),
    "impatient": ("", " be quick.", " i have no time."),
    "chatty": ("", " it was a gift.", " sorry to bother you."),
}
GIVE_ORDER = {
    "long": ("it is {n}.", "the number is {n}.", "sure, {n}.", "{n}, i found it."),
    "short": ("{n}", "{n}."),
}
NO_ORDER = ("i do not have it. i am {c}, it was the {i}.", "no idea. my name is {c}, the {i}.")
GIVE_AMOUNT = ("it was {a}.", "{a}")
GIVE_ADDRESS = ("{d}", "to {d} please.")
GIVE_PRODUCT = ("the {p}", "{p}, please.")
GIVE_NAME = ("i am {c}.", "my name is {c}")
REMIND = {
    "cancel": ("and please cancel {o}.", "what about {o}? i wanted to cancel it."),
    "return": ("and how do i send back {o}?", "i still want to return {o}."),
    "refund": ("and the refund of {a}?", "what about the refund of {a} for {o}?"),
    "address": ("and the address? it should be {d}.", "what about the new address, {d}?"),
    "track": ("and where is {o}?", "you did not say where {o} is."),
    "product": ("and the {p}? price and stock please.", "what about the price and stock of the {p}?"),
}
NEXT = ("one more thing: ", "also, ", "thanks. and ", "great. ")
ASK_CODE = ("what is the return code?", "and the return code?", "do i get a return code?")
ASK_PLACE = ("but where is it and when does it arrive?", "i asked where it is and on which day it arrives.")
ASK_STOCK = ("and how many are in stock?", "how many do you have in stock?")
ASK_PRICE = ("and what is the price?", "what is the price then?")
SEND_BACK = ("can i send it back then?", "then i want to return it.")
TRY_AGAIN = ("could you try again please?", "please try again.", "hm, please check that again.")
FED_UP = ("forget it, bye.", "this does not help. bye.", "that is no help at all, bye.")
THANKS = ("thanks, bye.", "thank you!", "great, thanks.", "perfect, thank you.")
SHORT_THANKS = ("ok thanks", "thx", "ok")


def money(cents: int) -> str:
    """Cents as written in messages: $12.50, and $12 for whole dollars."""
    return f"${cents // 100}.{cents % 100:02d}" if cents % 100 else f"${cents // 100}"


def slots(task: Task, goal: Goal, rng: random.Random, named: bool) -> dict[str, str]:
    """The values of a phrase's placeholders. Without `named`, the order is described by its item only."""
    line = " ".join(goal.item.split()[:-1]).lower()
    number = rng.choice((f"O-{goal.order_id}", f"{goal.order_id}"))
    if named:
        order = rng.choice(("order {n}", "my order {n}", "order {n}", "{n}")).format(n=number)
    else:
        order = rng.choice(("my order", f"my {line} order", f"the {line} i ordered"))
    product = ""
    if goal.product is not None:
        name = goal.product.line if rng.random() < 0.25 else goal.product.line.lower()
        product = rng.choice((f"{goal.product.colour} {name}", f"{name} in {goal.product.colour}"))
    customer = task.customer if rng.random() < 0.5 else task.customer.lower()
    return {
        "o": order,
        "n": number,
        "i": line,
        "a": money(goal.cents),
        "d": goal.address,
        "p": product,
        "c": customer,
    }


def request(task: Task, goal: Goal, rng: random.Random, named: bool) -> str:
    """A customer's request for one goal."""
    kind = "cancel" if goal.asks_to_cancel else goal.kind
    terse = task.temperament == "terse"
    text = rng.choice((TERSE if terse else OPENINGS)[kind])
    return text.format(**slots(task, goal, rng, named))


def first_message(task: Task, rng: random.Random, told_goals: int, named: bool) -> str:
    """The customer's first message: the first goal, or all goals."""
    parts = [request(task, g, rng, named and k == 0) for k, g in enumerate(task.goals[:told_goals])]
    for k, goal in enumerate(task.goals[1:told_goals], start=1):
        if goal.order_id and goal.order_id == task.goals[0].order_id:
            parts[k] = rng.choice(REMIND[goal.kind]).format(**slots(task, goal, rng, False) | {"o": "it"})
        elif task.temperament != "terse":
            parts[k] = "also, " + parts[k]
    before = rng.choice(PREFIXES.get(task.temperament, ("",)))
    after = rng.choice(SUFFIXES.get(task.temperament, ("",)))
    text = before + " ".join(parts) + after
    return text[0].upper() + text[1:] if before else text
