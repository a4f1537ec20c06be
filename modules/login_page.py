"""The page that asks for a name and a password: plain HTML, without a script."""

from __future__ import annotations

import html

__all__ = ["login_page"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lantern</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center;
  min-height: 90vh; margin: 0 1rem; }}
form {{ display: grid; gap: .75rem; width: min(20rem, 100%); }}
h1 {{ font-size: 1.25rem; margin: 0; }}
p {{ margin: 0; }}
label {{ display: grid; gap: .25rem; }}
input, button {{ font: inherit; padding: .5rem .75rem; }}
</style>
</head>
<body>
<form method="post" action="{action}">
<h1>Lantern</h1>
{note}
<label>Name <input name="username" autocomplete="username" required autofocus></label>
<label>Password
<input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button>
</form>
</body>
</html>
"""


def login_page(action: str, note: str = "") -> bytes:
    """The page, whose form is sent to `action`; `note` says what was wrong."""
    said = f'<p role="alert">{html.escape(note)}</p>' if note else ""
    return _PAGE.format(action=html.escape(action, quote=True), note=said).encode()
