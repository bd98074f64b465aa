"""The kinds of tools that `benchmarks.stateful` draws systems from."""

from benchmarks.kinds.folders import folders
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

KINDS = {maker.__name__: maker for maker in (
    login, place, folders, interlock, account, numbers, texts, members, nested, query, polling, versions, minted
)}  # fmt: skip
