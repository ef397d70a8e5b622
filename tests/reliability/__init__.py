"""The fault harness: commands that are killed, refused space, and given damaged or hostile files, thousands of times.

``make reliability`` runs all of it on tiny models and writes docs/reliability.md; ``make test-slow`` runs a sample of every
campaign. It is a program and not a set of tests because it counts: a campaign continues after a failure, and its table says how
many of how many cases hold. It lies in tests/ because it uses the same tiny models and must fail where they are not promised.

Begin with :mod:`reliability.case`, then any file of ``campaigns/``: each is one kind of fault. :mod:`reliability.command` runs
the command line, :mod:`reliability.shim` makes calls fail, :mod:`reliability.table` has the goals.
"""
