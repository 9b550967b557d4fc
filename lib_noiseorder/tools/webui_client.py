"""A running WebUI over its HTTP API; never loaded by a WebUI."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from threading import TIMEOUT_MAX
from typing import Any
from urllib.parse import urlsplit

from ..knobs import shown
from .failures import Refused, Unavailable

AUTH_VARIABLE = "NOISEORDER_AUTH"
_BUSY = (408, 425, 429)
"""Answers that pass, though they blame the asker."""


@dataclass(frozen=True)
class Answer:
    """The first picture of a request for pictures."""

    png: bytes
    infotext: str
    info: dict[str, Any]
    """What the WebUI says of the whole job."""


def address(url: str) -> str:
    """The address of a WebUI, unchanged. Raises ValueError where it is none."""
    if "@" in url:
        raise ValueError("a password does not belong in the address; use --auth")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        known = parts.scheme in ("http", "https") and host and parts.port != 0 and re.fullmatch("[!-~]+", url)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"{shown(url)} is not an address such as http://127.0.0.1:7860")
    return url


class WebUIClient:
    """One WebUI, asked one thing at a time."""

    def __init__(self, url: str, auth: str | None = None, seconds: float = 600):
        """
        Args:
            url: its address, such as "http://127.0.0.1:7860".
            auth: "user:password" of the WebUI's --api-auth; None takes the variable NOISEORDER_AUTH. Stands in no file.
            seconds: how long to wait for one answer.

        Raises:
            ValueError: no address, no "user:password", or no time to wait.
        """
        auth = os.environ.get(AUTH_VARIABLE, "") if auth is None else auth
        if auth and ":" not in auth:
            raise ValueError("--auth is not USER:PASSWORD")
        if not 0 < seconds <= TIMEOUT_MAX:
            raise ValueError(f"--timeout = {seconds:g} is not a number of seconds above 0, up to {TIMEOUT_MAX:g}")
        self.url = address(url).rstrip("/")
        self._auth = base64.b64encode(auth.encode(errors="surrogateescape")).decode() if auth else ""
        self._seconds = seconds

    def txt2img(self, payload: dict[str, Any]) -> Answer:
        """Raises Unavailable or Refused."""
        answer = self.ask("txt2img", payload)
        try:
            info = json.loads(answer["info"])
            encoded = answer["images"][info.get("index_of_first_image", 0)]
            infotext = info["infotexts"][0]
            if not isinstance(infotext, str):
                raise TypeError("its infotext is no text")
            return Answer(base64.b64decode(encoded.split(",")[-1]), infotext, info)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise self.without_picture(error) from None

    def without_picture(self, error: Exception) -> Unavailable:
        return Unavailable(f"{self.url} answered without a picture ({type(error).__name__}: {error})")

    def ask(self, path: str, payload: dict[str, Any] | None = None) -> Any:
        """What the API answers at a path below /sdapi/v1; with a payload by POST. Raises Unavailable or Refused."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Basic {self._auth}"} if self._auth else {})
        data = json.dumps(payload).encode() if payload is not None else None
        request = urllib.request.Request(f"{self.url}/sdapi/v1/{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise self._failure(error.code, _body(error)) from None
        except urllib.error.URLError as error:
            raise Unavailable(f"{self.url} cannot be reached: {error.reason}") from None
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise Unavailable(f"{self.url} broke off: {type(error).__name__} {error}".rstrip()) from None

    def _failure(self, status: int, body: str) -> OSError:
        if status == 401:
            how = f"say --auth USER:PASSWORD, or set {AUTH_VARIABLE}"
            return Refused(f"{self.url} does not accept the user and password (401); {how}")
        if status == 404:
            return Refused(f"{self.url} has no API (404); start the WebUI with --api")
        kind = Unavailable if status >= 500 or status in _BUSY else Refused
        return kind(f"{self.url} answered {status}: {body[:300]}")


def _body(error: urllib.error.HTTPError) -> str:
    """What came with a failure, in one line; what broke off is missed."""
    try:
        return " ".join(error.read().decode(errors="replace").split())
    except (OSError, HTTPException):
        return ""
