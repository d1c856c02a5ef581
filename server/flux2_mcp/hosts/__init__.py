"""Agent hosts, as data, in two tables.

`clients`: what a client does with results and how long our calls wait for it, found at run time by the name it gives itself.
`table`: where a host keeps its servers, in which form, and how long it may let a call take; chosen on the command line by the name
that people give it. The two meet in one rule, which a test holds: a host's limit is above its client's wait.

Everything but `files` and `installing` is pure, and nothing here needs more than the standard library.
"""

from __future__ import annotations
