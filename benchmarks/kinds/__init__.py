"""The kinds of tools that `benchmarks.stateful` draws systems from."""

from benchmarks.kinds.desks import broker, vehicle
from benchmarks.kinds.folders import folders
from benchmarks.kinds.lockers import lockers
from benchmarks.kinds.offices import mailbox, tickets
from benchmarks.kinds.pure import numbers, texts
from benchmarks.kinds.sessions import (
    account,
    interlock,
    login,
    members,
    minted,
    nested,
    place,
    polling,
    query,
    versions,
)
from benchmarks.kinds.shell import shell

KINDS = {maker.__name__: maker for maker in (
    login, place, folders, interlock, account, numbers, texts, members, nested, query, polling, versions, minted, shell,
    vehicle, broker, mailbox, tickets, lockers
)}  # fmt: skip
