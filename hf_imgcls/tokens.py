"""Access tokens: which ones this process could send, and texts without them."""

from __future__ import annotations

import os
import re

# https://huggingface.co/docs/hub/security-tokens
TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b")
_MIN_SECRET_LENGTH = 8


def hide_secrets(text: str) -> str:
    """Replace every token in a message."""
    for secret in list_secrets():
        text = text.replace(secret, "<token>")
    return TOKEN.sub("<token>", text)


def list_secrets() -> list[str]:
    """List the tokens that this process could send."""
    from huggingface_hub import get_token

    found = (get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"))
    return sorted({secret.strip() for secret in found if secret and len(secret.strip()) >= _MIN_SECRET_LENGTH})
