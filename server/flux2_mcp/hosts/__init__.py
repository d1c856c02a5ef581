"""Agent hosts, as data, in two tables.

`clients`: what a client does with results and how long it waits, found at run time by the name that the client gives itself.
`table`: where a host keeps its servers and in which form, chosen on the command line by the name that people give it. A row
there names its row in `clients`, so that no host is told to wait for less time than its client's calls take.

Everything but `files` and `own` is pure, and nothing here needs more than the standard library.
"""

from __future__ import annotations
