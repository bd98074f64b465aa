"""The agent's wordings."""

ASK_CONTRACT = (
    "I can help you with that. Could you give me your contract number, please?",
    "Gladly. What is your contract number? If you do not have it, your name and address will do.",
    "To find your contract I need the contract number, please.",
)
ASK_IBAN = (
    "For your security, please tell me the last four digits of the IBAN we have on file.",
    "Before I go on I have to verify you: what are the last four digits of your IBAN?",
    "Could you please confirm the last four digits of your IBAN so that I can verify you?",
)
ASK_BOTH = (
    "I can do that. Please give me your contract number and the last four digits of your IBAN.",
    "Sure. Could you tell me the contract number and, to verify you, the last four digits of your IBAN?",
)
ASK_POSTCODE = (
    "Our prices depend on the region. What is your postcode, please?",
    "Could you tell me your postcode? Then I can look up the tariffs for your area.",
)
CHECK_READING = (
    "The reading of {kwh} kWh looks unusual, we expected something near {expected}. Could you check it again?",
    "That value does not fit the earlier readings. Can you please check the meter once more for me?",
    "Before I record {kwh} kWh: it differs a lot from what we expect. Is it really correct?",
)
OFFER_EUR = (
    "{wanted} euros is outside the allowed range. I could set it to {limit} euros instead, would you like that?",
    "The nearest instalment that I am allowed to set is {limit} euros. Shall I do that for you?",
    "Unfortunately {wanted} euros does not work, but {limit} euros would be possible. Do you want that?",
)
OFFER_DAYS = (
    "{wanted} days is more than I may grant. I can extend it by {limit} days, would that help you?",
    "The longest extension possible for this invoice is {limit} days. Shall I enter that?",
    "Unfortunately I cannot give you {wanted} days, but {limit} days would work. Do you want that?",
)
LEFT_EUR = (
    "All right, I leave your instalment as it is. {limit} euros remains possible if you change your mind.",
    "Understood, nothing is changed. If you reconsider, {limit} euros a month is what we could do.",
)
LEFT_DAYS = (
    "All right, I leave the due date as it is. {limit} days would be possible if you change your mind.",
    "Understood, the invoice stays as it is. An extension by {limit} days remains possible.",
)
TELL = {
    "reading": (
        "Your reading of {kwh} kWh is recorded. You have used {used} kWh since the last reading.",
        "Thank you, {kwh} kWh has been saved for the {place} meter; your consumption since last time is {used} kWh.",
        "I have entered {kwh} kWh for you. That makes a consumption of {used} kWh since the previous reading.",
    ),
    "instalment": (
        "Your monthly instalment has been changed to {eur} euros, it applies from {day}.",
        "I have set your instalment to {eur} euros a month. The new amount starts on {day}.",
        "Done: you will pay {eur} euros per month from {day} onwards.",
    ),
    "switch": (
        "Your contract has been switched to {tariff}. The new tariff applies from {day}.",
        "I have changed your tariff to {tariff}, it starts on {day}.",
        "All done, from {day} your contract runs on {tariff}.",
    ),
    "defer": (
        "I have extended the due date of your {month} invoice, please pay it by {day}.",
        "Your invoice for {month} is now deferred, the new due date is {day}.",
        "Done, you have until {day} to pay the invoice for {month}.",
    ),
    "invoice": (
        "Your invoice for {month} amounts to {eur} euros, with the due date {day}.",
        "For {month} we charged you {eur} euros, and the payment date is {day}.",
        "The total of the {month} invoice is {eur} euros; its due date is {day}.",
    ),
    "usage": (
        "The last reading of the {place} meter is {kwh} kWh, taken on {day}.",
        "For the meter in the {place} we have {kwh} kWh stored, read on {day}.",
        "On {day} your {place} meter showed {kwh} kWh, that is our latest value.",
    ),
    "advice": (
        "That would be {tariff}: in your area it costs {ct} cents per kWh.",
        "The tariff you are looking for is {tariff}, with a price of {ct} cents per kWh.",
        "{tariff} fits your question, a kWh costs {ct} cents there.",
    ),
}
"""Answers with their facts, by kind of wish."""

VAGUE = {
    "reading": (
        "Thank you, your reading of {kwh} kWh has been recorded for the {place} meter.",
        "I have entered {kwh} kWh for you, everything is up to date now.",
    ),
    "instalment": (
        "Your instalment has been changed to {eur} euros, you will see it on the next statement.",
        "I have set your monthly instalment to {eur} euros, the change is being processed.",
    ),
    "switch": (
        "Your contract has been switched to {tariff}, you will get a letter with the details.",
        "I have changed your tariff to {tariff}, the change is being processed now.",
    ),
    "invoice": (
        "Your invoice for {month} amounts to {eur} euros, you can see it in your account too.",
        "For {month} we charged you {eur} euros in total.",
    ),
    "usage": (
        "The last reading of the {place} meter that we have stored is {kwh} kWh.",
        "For the meter in the {place} we have {kwh} kWh stored.",
    ),
    "advice": (
        "That would be {tariff}, a good choice for many of our customers in your area.",
        "The tariff you are looking for is {tariff}, you can book it online.",
    ),
}
"""Answers that leave a fact out."""

REFUSED = {
    "fixed_term": (
        "I cannot switch you now, your contract is in its fixed term until {day}. A change is possible after that.",
        "Unfortunately your contract is fixed until {day}, so the switch is not possible before then.",
    ),
    "arrears": (
        "I cannot switch you yet, an overdue invoice of {eur} euros blocks the change. Please pay it first.",
        "Unfortunately the switch is blocked by an open invoice of {eur} euros, which is overdue.",
    ),
    "already_deferred": (
        "I cannot extend the {month} invoice again, it was already deferred once. It stays due on {day}.",
        "Unfortunately this invoice has been deferred before, so its due date of {day} is final.",
    ),
}
"""Answers to a refused wish that state the reason, by the refusal's code."""

SORRY = (
    "I am sorry, I could not do that: {reason}.",
    "Unfortunately that is not possible right now, {reason}.",
    "I am afraid I cannot help you with this, {reason}. Sorry about that.",
)
NOTHING = (
    "I am sorry, I have no more information about this at the moment.",
    "Unfortunately I cannot do more for you here, please call our hotline.",
    "I understand, but there is nothing else that I can do in this chat, sorry.",
)
GOODBYE = (
    "You are welcome, have a nice day!",
    "Thank you for contacting Wattline, goodbye.",
    "Happy to help, take care!",
)
