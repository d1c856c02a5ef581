"""Configuration files as people have them, for the merges: what is in them, times how they are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

OURS = "flux-2"
DEEP = 200
BIG = 1_500


def _nested(levels: int) -> str:
    return '{"theme": ' + '{"a": ' * levels + "[1, [2, [3]]]" + "}" * levels + "}"


# --- JSON: what every host reads --------------------------------------------------------------------------------------

_PLAIN = {
    "empty object": "{}\n",
    "empty object over lines": "{\n}\n",
    "empty map": '{\n  "MAP": {}\n}\n',
    "empty map over lines": '{\n  "MAP": {\n  }\n}\n',
    "other settings only": '{\n  "theme": "dark",\n  "numbers": [1, 2.5e3, -0.1],\n  "none": null\n}\n',
    "one other server": '{\n  "MAP": {\n    "memory": {\n      "command": "npx",\n      "args": ["-y", "memory"]\n    }\n  }\n}\n',
    "two others, then settings": (
        '{\n  "MAP": {\n    "b": {\n      "command": "b"\n    },\n    "a": {\n      "command": "a",\n'
        '      "env": {\n        "TOKEN": "canary"\n      }\n    }\n  },\n  "telemetry": false\n}\n'
    ),
    "map first of many": '{\n  "MAP": {\n    "x": {"command": "x"}\n  },\n  "z": 1,\n  "a": 2\n}\n',
    "inline servers": '{\n  "MAP": { "x": { "command": "x" }, "y": { "command": "y" } }\n}\n',
    "minified": '{"theme":"dark","MAP":{"x":{"command":"x","args":[]}},"z":[{},[]]}',
    "minified without a map": '{"theme":"dark"}',
    "minified with an empty map": '{"MAP":{},"z":1}',
    "one line with spaces": '{"theme": "dark", "MAP": {"x": {"command": "x"}}}\n',
    "not indented": '{\n"a": 1,\n"MAP": {\n"x": {\n"command": "x"\n}\n}\n}\n',
    "closing brace on the last line": '{\n  "a": 1,\n  "MAP": {\n    "x": {"command": "x"}}}\n',
    "brace on its own line": '{\n  "MAP":\n  {\n    "x":\n    {\n      "command": "x"\n    }\n  }\n}\n',
    "blank lines": '\n{\n\n  "a": 1,\n\n  "MAP": {\n\n    "x": {"command": "x"}\n\n  }\n\n}\n\n\n',
    "escapes": '{\n  "q\\"uo\\\\te": "\\u00e9\\n\\t\\/ { } [ ] , : // not a comment /* nor this */",\n  "MAP": {}\n}\n',
    "not ASCII": '{\n  "名前": "café 🎨 \u2028",\n  "MAP": {\n    "größe": {"command": "ß"}\n  }\n}\n',
    "deeply nested": _nested(DEEP),
    "duplicate keys elsewhere": '{\n  "a": 1,\n  "a": 2,\n  "MAP": {"x": {"a": 1, "a": 2}}\n}\n',
    "a server called like a setting": '{\n  "MAP": {\n    "MAP": {"command": "x", "MAP": {}}\n  }\n}\n',
    "long numbers": '{\n  "id": 123456789012345678901234567890.5,\n  "big": 1e999,\n  "MAP": {"x": {"port": 0}}\n}\n',
    "large": json.dumps(
        {"history": [{"n": n, "text": f"line {n} {{"} for n in range(BIG)], "MAP": {"x": {}}}, indent=2
    ),
}

# --- JSONC: what Cursor, VS Code, Gemini CLI, opencode and others read besides ---------------------------------------

_COMMENTED = {
    "comment before": '// my settings\n{\n  "MAP": {}\n}\n',
    "comment after": '{\n  "a": 1\n}\n// the end\n',
    "comment after the last member": '{\n  "MAP": {\n    "x": {"command": "x"} // keep\n  } // and this\n}\n',
    "comment on the last lines": '{\n  "MAP": {\n    "x": {"command": "x"}\n    // "old": {"command": "old"}\n  }\n  // end\n}\n',
    "comment in an empty map": '{\n  "MAP": {\n    // none yet\n  }\n}\n',
    "block comment in an empty map": '{\n  "MAP": { /* none yet */ }\n}\n',
    "comment in an empty object": "{\n  // nothing\n}\n",
    "comments everywhere": (
        '/* a */ { /* b */ "a" /* c */ : /* d */ 1 /* e */ , // f\n  /* g */ "MAP" : /* h */ {\n'
        '    "x" : { "command" /* i */ : "x" } /* j */\n  } /* k */\n} /* l */\n'
    ),
    "comment with braces": '{\n  // } ] " {\n  "MAP": {\n    /* "x": { */\n    "x": {"command": "x"}\n  }\n}\n',
    "trailing comma in the map": '{\n  "MAP": {\n    "x": {"command": "x"},\n  }\n}\n',
    "trailing commas all over": '{\n  "a": [1, 2,],\n  "MAP": {\n    "x": {\n      "command": "x",\n    },\n  },\n}\n',
    "trailing comma, then a comment": '{\n  "MAP": {\n    "x": {"command": "x"}, // last\n    // really\n  }, // map\n}\n',
    "trailing comma without a map": '{\n  "a": 1,\n}\n',
    "trailing comma on one line": '{"a": 1, "MAP": {"x": {},},}',
    "comment with trailing space": '{\n  "MAP": {\n    "x": {} // why   \n  }\n}\n',
    "commented-out entry of ours": '{\n  "MAP": {\n    // "flux-2": {"command": "old"},\n    "x": {}\n  }\n}\n',
    "urls": '{\n  "url": "https://example.com/a//b", // https://example.com\n  "MAP": {"x": {"url": "http://x//y"}}\n}\n',
    "a number longer than Python reads": '{\n  "n": ' + "1" * 5000 + ', // big\n  "MAP": {"x": {}}\n}\n',
    "star-filled comment": '{\n  /***\n   ** " **/\n  "MAP": {"x": {}}\n  /**/\n}\n',
}

# --- TOML: what Codex reads -------------------------------------------------------------------------------------------

_TABLES = {
    "empty": "",
    "blank line": "\n",
    "comment only": "# nothing yet\n",
    "top-level keys": 'model = "gpt"\napproval = "never"\n',
    "one table": "[tui]\nnotifications = true\n",
    "one other server": '[MAP.memory]\ncommand = "npx"\nargs = ["-y", "memory"]\n',
    "others between tables": '[MAP.a]\ncommand = "a"\n\n[tui]\nx = 1\n\n[MAP.b]\ncommand = "b"\n\n[z]\ny = 2\n',
    "a table of its own for the map": '[MAP]\n# servers\n\n[MAP.x]\ncommand = "x"\n',
    "an empty table for the map": "[MAP]\n",
    "sub-tables": '[MAP.x]\ncommand = "x"\n\n[MAP.x.env]\nTOKEN = "canary"\n\n[MAP.x.tools.run]\nask = true\n',
    "dotted keys": 'MAP.x.command = "x"\nMAP.x.args = []\n\n[tui]\na = 1\n',
    "dotted keys in the map": '[MAP]\nx.command = "x"\nx.args = []\n',
    "map is inline": 'a = 1\nMAP = { x = { command = "x", args = ["{", "}, ="] } } # x\n\n[b]\nc = 2\n',
    "map is inline and empty": 'MAP = {}\n[b]\nMAP = { flux-2 = { command = "no" } }\n',
    "map is inline, with dotted keys": 'MAP = {x.command="x",x.env.TOKEN=\'a, b = "c"\',"y z"={}}\n',
    "inline server": '[MAP]\nx = { command = "x", args = ["[a]", "# b"] }\n',
    "quoted names": '["MAP"."my server"]\ncommand = "x"\n\n[ MAP . \'y\' ]\ncommand = "y"\n',
    "comments": '# top\nmodel = "x" # why\n\n# about x\n[MAP.x] # a server\ncommand = "x" # run\n# end\n',
    "comments at the end": '[MAP.x]\ncommand = "x"\n\n# [MAP.flux-2]\n# command = "old"\n',
    "multi-line strings": 'text = """\n[MAP.flux-2]\ncommand = "no"\n"""\nraw = \'\'\'\n[not.a.table]\n\'\'\'\n\n[a]\nb = 1\n',
    "quotes in multi-line strings": 'a = """x""""\nb = """"x""" # c\nc = \'\'\'\'x\'\'\'\nd = """\\\n  [e] \\""" \n"" x""" \n[f]\n',
    "multi-line arrays": 'a = [\n  "]", # ]\n  "[b]",\n  [1, 2], # nested\n]\n\n[MAP.x]\nargs = [\n  "-y",\n]\n',
    "arrays of tables": '[[profile]]\nname = "a"\n\n[[profile]]\nname = "b"\n\n[[profile.rule]]\nallow = true\n',
    "dates and odd numbers": "at = 2026-11-25T10:00:00Z\nday = 2026-11-25\nx = nan\ny = -inf\nn = 0xff\nm = 1_000\nf = 1e3\n",
    "blank lines": "\n\n[a]\n\n\nb = 1\n\n\n\n",
    "indented": '[a]\n  b = 1\n  [a.c]\n    d = 2\n\n[MAP]\n  [MAP.x]\n    command = "x"\n',
    "not ASCII": '"名前" = "café 🎨"\n["größe"]\n"ß" = \'\\d\'\n',
    "escapes": 'a = "\\" # [b] \\\\"\nc = \'\\\'\n\n[d]\ne = "\\u00e9"\n',
    "keys that look like ours": '[MAP-more.flux-2]\na = 1\n\n[more.MAP.flux-2]\nb = 2\n\n["MAP.flux-2"]\nc = 3\n',
    "deeply nested": "a = " + "[" * DEEP + "]" * DEEP + "\n",
    "large": "".join(f'[project.p{n}]\ntrust = "yes" # [{n}\n\n' for n in range(BIG)),
}

# --- how they are written ---------------------------------------------------------------------------------------------

Writing = Callable[[str], str]


def _indented(unit: str) -> Writing:
    """With another indentation. Only for texts where two spaces at a line's start are indentation."""

    def write(text: str) -> str:
        lines = [(len(line) - len(line.lstrip(" ")), line.lstrip(" ")) for line in text.split("\n")]
        return "\n".join(unit * (spaces // 2) + line for spaces, line in lines)

    return write


WRITINGS: Mapping[str, Writing] = {
    "as it is": lambda text: text,
    "BOM and CRLF": lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "BOM": lambda text: "\ufeff" + text,
    "no end of line": lambda text: text.rstrip("\n"),
    "more ends of lines": lambda text: text + "\n\n",
    "tabs": _indented("\t"),
    "four spaces": _indented("    "),
    "space before line ends": lambda text: text.replace("\n", "  \n"),
}
_ONCE = set(WRITINGS) - {"as it is", "CRLF"}

_THIN = {"as it is", "BOM and CRLF"}
_RICH = {
    "two others, then settings", "blank lines", "brace on its own line",
    "comments everywhere", "trailing comma, then a comment", "comment in an empty map",
    "comments", "indented", "multi-line arrays",
}  # fmt: skip


def thin(corpus: Mapping[str, str]) -> dict[str, str]:
    """Every content but the large one in two writings, and three of each family in all: what the rest proves, these do."""
    named = {name: name.rsplit(", ", 1) for name in corpus}
    kept = {name for name, (what, how) in named.items() if (how in _THIN and what != "large") or what in _RICH}
    return {name: text for name, text in corpus.items() if name in kept}


def _written(bases: Mapping[str, str], servers: str, *, skip: Mapping[str, set[str]] | None = None) -> dict[str, str]:
    written: dict[str, str] = {}
    for what, base in bases.items():
        for how, write in WRITINGS.items():
            if how not in (skip or {}).get(what, _ONCE if what == "large" else set()):
                written.setdefault(write(base.replace("MAP", servers)), f"{what}, {how}")
    return {name: text for text, name in written.items()}


JSON = _written(_PLAIN, "mcpServers")
JSONC = _written(_COMMENTED, "servers") | _written(
    {what: text for what, text in _PLAIN.items() if what in {"minified", "blank lines", "escapes", "inline servers"}},
    "servers",
)
TOML = _written(
    _TABLES,
    "mcp_servers",
    skip={"multi-line strings": {"space before line ends"}, "quotes in multi-line strings": {"space before line ends"}},
)

BROKEN_JSON = {
    "no end": ('{\n  "a": 1\n', 1),
    "two commas": ('{\n  "a": 1,,\n  "b": 2\n}\n', 2),
    "no comma": ('{\n  "a": 1\n  "b": 2\n}\n', 3),
    "no value": ('{\n  "a":\n}\n', 3),
    "no colon": ('{\n\n  "a" 1\n}\n', 3),
    "single quotes": ("{\n  'a': 1\n}\n", 2),
    "bare key": ("{\n  a: 1\n}\n", 2),
    "string over two lines": ('{\n  "a": "x\ny"\n}\n', 2),
    "unknown escape": ('{\n  "a": "\\x41"\n}\n', 2),
    "leading zero": ('{\n  "a": 012\n}\n', 2),
    "wrong bracket": ('{\n  "a": [1, 2}\n}\n', 2),
    "second value": ("{}\n{}\n", 2),
    "array": ("[]\n", 1),
    "text": ("mcpServers\n", 1),
    "map is a list": ('{\n  "a": 1,\n  "MAP": []\n}\n', 3),
    "map twice": ('{\n  "MAP": {},\n  "MAP": {}\n}\n', 3),
    "ours twice": (
        '{\n  "MAP": {\n    "flux-2": {"command": "flux2-mcp"},\n    "flux-2": {"command": "flux2-mcp"}\n  }\n}\n',
        4,
    ),
    "ours is a number": ('{\n  "MAP": {\n    "flux-2": 7\n  }\n}\n', 3),
    "ours is another's": ('{\n  "MAP": {\n    "flux-2": {"command": "npx"}\n  }\n}\n', 3),
    "too deep": ("[" * 300 + "]" * 300, 1),
    "conflict markers": ('{\n<<<<<<< HEAD\n  "a": 1\n=======\n  "a": 2\n>>>>>>> b\n}\n', 2),
    "unending comment": ('{\n  "a": 1\n  /* oh\n}\n', 3),
}
STRICTLY_BROKEN = {
    "a comment": ('{\n  // hi\n  "MAP": {}\n}\n', 2),
    "a block comment": ('{\n  "MAP": {}\n}\n/* hi */\n', 4),
    "a trailing comma": ('{\n  "MAP": {},\n}\n', 2),
    "a trailing comma in a list": ('{\n  "a": [\n    1,\n  ]\n}\n', 3),
}
BROKEN_TOML = {
    "no value": ("a = 1\nb =\n", 2),
    "no equals": ("a = 1\n\nb 2\n", 3),
    "unending table": ("a = 1\n[b\nc = 2\n", 2),
    "key twice": ("a = 1\nb = 2\na = 3\n", 3),
    "table twice": ("[a]\nb = 1\n[a]\nc = 2\n", 3),
    "unending string": ('a = "x\nb = 1\n', 1),
    "JSON": ('{\n  "a": 1\n}\n', 1),
    "map is a string": ('a = 1\nMAP = "x"\n', 2),
    "ours is a number": ("[MAP]\nflux-2 = 7\n", 2),
    "ours is another's": ('[MAP.x]\ncommand = "flux-2"\n[MAP.flux-2]\ncommand = "npx"\n', 3),
    "ours in dotted keys": ('[MAP]\nflux-2.command = "flux2-mcp"\n', 2),
}
