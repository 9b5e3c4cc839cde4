"""The page behind a setup link: one form, no outside asset, and a policy that lets only its own script run."""

from __future__ import annotations

import base64
import hashlib

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:10vh auto;padding:0 1rem;color:#1a1a1a;background:#fafafa}
label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}
input,button{padding:.5rem;margin:.3rem 0 1rem}
code{display:block;padding:.7rem;background:#eee;overflow-wrap:anywhere;user-select:all}
[role=alert]{color:#a00}
@media (prefers-color-scheme:dark){body{color:#eee;background:#181818}code{background:#333}[role=alert]{color:#f88}}
"""

# The secret stands behind # and is taken out of the address at once, so that it stays in no history.
_SCRIPT = """
"use strict";
const secret = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const form = document.querySelector("form"), said = document.querySelector("[role=alert]");
if (!secret) said.textContent = "This address is not complete: open the whole link that the commander printed.";
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  said.textContent = "";
  try {
    const reply = await fetch("/api/v1/setup", {
      method: "POST",
      headers: {"content-type": "application/json"},
      body: JSON.stringify({secret, name: form.elements.name.value}),
    });
    const body = await reply.json();
    if (!reply.ok) throw new Error(body.hint ? body.text + " (" + body.hint + ")" : body.text);
    document.querySelector("code").textContent = body.token;
    document.querySelector("section").hidden = false;
    form.hidden = true;
  } catch (error) {
    said.textContent = error.message;
  }
});
"""

HTML = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Garrison: first administrator</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>First administrator</h1>
<form>
<label for="name">Your name</label>
<input id="name" name="name" required maxlength="64" autocomplete="name" autofocus>
<button>Make my token</button>
</form>
<p role="alert"></p>
<section hidden>
<p>This is your token. It is shown only now: keep it in a password manager.</p>
<code></code>
<p>Programs send it as <q>Authorization: Bearer …</q>; the command line takes it from GARRISON_TOKEN.</p>
</section>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
