"""What users and agents say in procedural worlds. n: noun, i: id, f: field, v: value, g: wanted field, s: status."""

SYSTEM = (
    "You are a helpful agent.", "Help the user with the tools.", "agent", "You work for {place}.",
    "Use the tools. Tell the user what you did.", "assistant of {place}",
)  # fmt: skip
HELLO = ("", "", "", "Hi, ", "Hello, ", "Hey, ", "Good morning, ", "Hi there. ", "Please help: ", "Quick question. ")
ASK_READ = (
    "what is the {f} of {n} {i}?", "can you tell me the {f} of my {n} {i}?", "i need the {f} for {n} {i}.",
    "{n} {i}: which {f} does it have?", "could you check the {f} of {n} {i}", "{f} of {i}?",
    "do you know the {f} of {n} {i}?", "look up {n} {i}, i want to know its {f}",
)  # fmt: skip
ASK_SET = (
    "make the {f} of {n} {i} {v}.", "set {f} to {v} for {n} {i}, please", "i want the {f} of {i} to be {v}",
    "{n} {i} shows a wrong {f}, {v} is right.", "can you update {n} {i}? {f} is {v} now", "{i}: {f} {v}",
    "from now on {n} {i} needs {f} {v}",
)  # fmt: skip
ASK_ACT = (
    "please {a} {n} {i}.", "can you {a} my {n} {i}?", "i would like you to {a} {n} {i}", "{n} {i}: {a} it please",
    "{a} {i}", "it is time to {a} {n} {i}.",
)  # fmt: skip
ASK_DELETE = ("please remove {n} {i}.", "delete {n} {i}", "{n} {i} can go, erase it.", "get rid of {n} {i} please")
ASK_CREATE = (
    "i need a new {n} with {f} {v}.", "please add a {n}, {f} {v}", "create a {n}: {f} {v}",
    "register a {n} for me, {f} is {v}.",
)  # fmt: skip
ASK_LINK = ("put {n} {i} under {m} {j}.", "please connect {n} {i} with {m} {j}", "{n} {i} belongs to {m} {j} now")
ASK_COUNT = ("how many {p} have {f} {v}?", "count the {p} with {f} {v} please", "number of {p} where {f} is {v}?")
ASK_FIND = (
    "which {n} has {f} {v}? tell me its {g}.", "find the {n} whose {f} is {v} and tell me the {g}",
    "there is a {n} with {f} {v}. what is its {g}?",
)  # fmt: skip
ASK_CHOICE = (
    "what is the {g} of the {d}?", "about the {d}: what {g} does it have?", "{g} of the {d} please",
    "can you tell me the {g} of {d}?", "how about the {d}? i need its {g}.", "{d}, {g}?",
)  # fmt: skip
WHICH = ("Which {n} do you mean? Please give me the {k}.", "Can you tell me the {k}?", "I need the {k} to look it up.")
GIVE = ("{i}", "it should be {i}", "sure, {i}", "that would be {i}.", "{i}, thanks", "let me see... {i}")
NOTES = ("{a} {v}", "I try {a}.", "next: {v}", "looking at {v}", "{a}: {v}", "Let me see {v}.", "using {v}")
"""What an agent writes beside a call. a: the tool, v: the arguments' values."""
TELL = (
    "The {f} of {n} {i} is {v}.", "{n} {i} has {f} {v}.", "It shows {v}.", "I checked: the {f} is {v}.", "{f}: {v}",
    "For {n} {i} I see {f} {v}.",
)  # fmt: skip
DONE_SET = ("Done: {f} of {n} {i} is {v}.", "I have set {f} to {v}.", "{n} {i} has {f} {v} from now on.")
DONE_ACT = ("Done: {n} {i} is now {s}.", "I did {a} {i}, which makes it {s}.", "{n} {i} is {s} now.")
DONE_DELETE = ("{n} {i} is gone.", "I have deleted {i}.", "Removed: {n} {i}.")
DONE_CREATE = ("I made {n} {i}.", "The new {n} is {i}.", "{n} {i} exists now, with {f} {v}.")
DONE_LINK = ("{n} {i} is under {m} {j} now.", "Connected {i} and {j}.", "Done, {i} belongs to {j}.")
COUNTED = ("There are {c}.", "I count {c} {p}.", "{c} {p} have {f} {v}.")
REFUSED = (
    "I could not do that for {n} {i}: {m}.", "It did not work, {n} {i}: {m}.",
    "I was not able to. The system says: {m}.",
)  # fmt: skip
NOT_FOUND = ("I found no {d}.", "There is no {d} here.", "Nothing matches {d}.")
CLAIM = ("Done.", "It is settled, {n} {i}.", "Your wish is fulfilled.", "Everything went through for {i}.")
THANKS = ("thanks", "thank you so much", "good, see you", "ok", "nice.", "that was it", "cheers", "that will do")
REPLY = ("Any time.", "See you!", "My pleasure.", "All the best.")
MORE = ("then ", "another thing. ", "and ", "next, ", "another question: ", "while we are at it, ", "besides, ")
UPSET = ("i do not see how that solves it.", "no, that is wrong", "are you sure? look again", "hm, not what i asked")
CANNOT = ("There is nothing else I can try.", "I have to leave it there.", "That is as far as I get.")
