"""Names and wordings: what customers write. The agent's wordings are in sayings.py."""

FIRST = ("Hanna", "Oliver", "Mira", "Jonas", "Petra", "Samuel", "Greta", "Leon", "Nora", "Felix", "Ida", "Marek",
         "Clara", "Tomas", "Elin", "Viktor", "Ruth", "Anton", "Lea", "Bruno")
LAST = ("Keller", "Brandt", "Novak", "Lindner", "Hofer", "Sommer", "Adler", "Weber", "Krause", "Jansen", "Fischer",
        "Moreau", "Pohl", "Richter", "Stein", "Vogel", "Wagner", "Ziegler", "Berger", "Ott")
STREETS = ("Mill Lane", "Harbour Road", "Chapel Street", "Orchard Way", "Station Road", "Quarry Hill", "Canal Walk",
           "Linden Avenue", "Market Row", "Abbey Close", "Foundry Street", "Meadow Drive")
PLACES = ("flat", "garage", "cellar", "workshop", "attic", "annex")
PERIODS = ("February 2026", "January 2026", "December 2025", "November 2025", "October 2025", "September 2025")
TARIFFS = {
    "power": (("Flow Basic", "PF10"), ("Flow Fix", "PF24"), ("Sun Direct", "PS31"), ("River Plus", "PR42"),
              ("Wind Home", "PW57"), ("Night Saver", "PN63")),
    "gas": (("Ember Basic", "GE11"), ("Ember Fix", "GE25"), ("Biogas Home", "GB36"), ("Hearth Plus", "GH48"),
            ("Glow Direct", "GG52"), ("Valley Green", "GV69")),
}
"""Name and code of each tariff, by fuel."""

TARIFF_NAMES = tuple(name for group in TARIFFS.values() for name, _ in group)

WISH = {
    "cheapest": "the {fuel} tariff with the lowest price per kWh",
    "green": "the cheapest green {fuel} tariff",
    "named": "the {fuel} tariff {tariff}",
}
"""How a customer describes a tariff, by Slots.wish."""

OPENING = {
    "reading": (
        "I want to report a meter reading: the meter in the {place} shows {kwh} kWh.",
        "Here is my reading for the {place} meter: {kwh} kWh. How much did I use since last time?",
        "The {place} meter says {kwh}. Please enter that and tell me my consumption.",
        "Please record {kwh} kWh for the meter in my {place}.",
    ),
    "instalment": (
        "Please change my monthly instalment to {eur} euros.",
        "I would like to pay {eur} euros a month from now on, can you set that?",
        "My monthly payment should be {eur} euros. From when does that apply?",
        "Can you adjust the instalment of my contract to {eur} euros?",
    ),
    "switch": (
        "I want to switch to {wish}. From when would it run?",
        "Please move my contract to {wish}.",
        "Can you change my contract to {wish}?",
        "I have decided to change over to {wish}, please arrange it.",
    ),
    "defer": (
        "I cannot pay the {month} invoice in time. Can I have {days} more days?",
        "Please give me {days} days more for my invoice of {month}.",
        "Could the {month} bill be put back by {days} days?",
        "Money is tight, I need {days} extra days to pay the invoice for {month}.",
    ),
    "invoice": (
        "How much was my invoice for {month}, and when was it due?",
        "I need the amount and the due date of the {month} bill.",
        "What did you charge me for {month} and by which day?",
        "Please tell me the total and due date of my {month} invoice.",
    ),
    "usage": (
        "What is the last reading you have for the meter in my {place}, and from which day?",
        "Which value is stored for my {place} meter, and when was it taken?",
        "When was the {place} meter last read, and what did it show?",
        "Please tell me the last reading and its date for the meter in the {place}.",
    ),
    "advice": (
        "What is the price per kWh of {wish} at my address?",
        "I am looking for {wish}. What is it called and what does a kWh cost?",
        "Can you tell me the name and kWh price of {wish}?",
        "Which one is {wish}, and how many cents per kWh is it?",
    ),
}
"""First messages, by kind of wish."""

BEFORE = {
    "calm": ("Hello. ", "Good morning, ", "Hi there! ", ""),
    "brief": ("",),
    "impatient": ("", "Quickly please: ", "This is urgent. "),
}
"""What comes before the first message, by temperament."""

WITH_CONTRACT = (" My contract is {c}.", " Contract {c}.", " It is contract number {c}.")
WITH_IBAN = (" My IBAN ends in {iban}.", " IBAN ends with {iban}.")
WITH_POSTCODE = (" I live in {postcode}.", " My postcode is {postcode}.")

GIVE = {
    "contract": ("It is {c}.", "My contract number is {c}.", "{c}"),
    "no contract": (
        "I do not have the number here. My name is {name}, {street}, postcode {postcode}.",
        "No idea, sorry. {name}, {postcode}, the contract for {street}.",
    ),
    "iban": ("The last four are {iban}.", "It ends in {iban}.", "{iban}"),
    "postcode": ("My postcode is {postcode}.", "{postcode}", "It is {postcode}."),
    "place": ("The one in the {place}.", "I mean the {place} meter."),
    "month": ("The one for {month}.", "{month}, please."),
    "typo": ("Sorry, I misread it, it is {kwh} kWh.", "You are right, my mistake: {kwh}.", "Oh, it says {kwh}."),
    "sure": ("I checked again and it is correct.", "Yes, it really shows that. We have a heat pump now.",
             "I am sure, the number is right."),
    "accept": ("Yes, please do that.", "All right, that works for me.", "Fine, go ahead."),
    "decline": ("No, then leave it as it is.", "No thanks, then I keep it unchanged.", "Then no, do not change it."),
}
"""Answers to the agent's questions and offers."""

ASK = {
    "date": ("From which date, exactly?", "And what is the date?", "Which day is that?"),
    "kwh": ("And how many kWh is that?", "What is the number in kWh?"),
    "used": ("How much did I use?", "And what is my consumption in kWh?"),
    "eur": ("And how much is it?", "What is the amount?"),
    "tariff": ("What is the tariff called?", "Which tariff is it?"),
    "ct": ("And what is the price per kWh?", "How many cents per kWh?"),
    "why": ("What would be possible then?", "Why not, and what can you do?", "Can you tell me the exact reason?"),
}
"""Questions for a missing fact, by its type, and for the reason of a refusal."""

AGAIN = (
    "Can you please try that again?",
    "That does not help me. Please try once more.",
    "Are you sure? Please check again.",
)
DONE_YET = ("So is it done now?", "And what about my request?", "I still need an answer.")
THANKS = ("Thank you, that is all.", "Great, thanks for your help.", "Thanks, goodbye.")
FED_UP = ("Forget it, I will call your hotline.", "This is useless. Goodbye.", "Then I will write to your manager.")
