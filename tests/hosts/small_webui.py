"""A WebUI's API without a WebUI: draws the shapes world by its own renderer, fast, repeatable, and out of order on demand."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_noiseorder.tools.lab.world import Prompt, place, render, test_prompts

EXTRA = 13
"""Evaluations that its ordering announces."""


class SmallWebUI:
    """Listens on a free port of this machine until `stop`.

    An ordered picture is right for 3 of 4 seeds, a plain one for 2 of 4. `trouble`, called with the number of the
    txt2img request, gives (status, body) instead of a picture, or None.
    """

    def __init__(self, model="small", auth="", trouble=lambda number: None, extension=True, seconds=0.0):
        self.model, self.auth, self.trouble, self.extension = model, auth, trouble, extension
        self.seconds = seconds
        self.skipped = ""
        self.asked: list[dict] = []
        self._lock = threading.Lock()
        self._wait = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self):
        self._wait.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def answer(self, path: str, payload: dict | None) -> tuple[int, dict | list]:
        if path.endswith("/scripts"):
            return 200, {"txt2img": ["noise order"] if self.extension else ["x/y/z plot"], "img2img": []}
        if path.endswith("/sd-models"):
            return 200, [{"title": f"{self.model}.safetensors [abc]", "model_name": self.model, "hash": "abc"}]
        if not path.endswith("/txt2img"):
            return 404, {"detail": "Not Found"}
        with self._lock:
            self.asked.append(payload)
            trouble = self.trouble(len(self.asked))
        self._wait.wait(self.seconds)
        return trouble or (200, self._picture(payload))

    def _picture(self, payload: dict) -> dict:
        settings = payload["alwayson_scripts"]["Noise Order"]["args"][0]
        seed, ordered = payload["seed"], settings["enabled"]
        rng = np.random.default_rng([seed, payload["steps"], ordered])
        wanted = Prompt.parse(payload["prompt"])
        drawn = wanted if seed % 4 < (3 if ordered else 2) else test_prompts(8, seed)[0]
        picture = np.round(render(place(drawn, rng), rng) * 255).astype(np.uint8)
        infotext = f"{payload['prompt']}\nSteps: {payload['steps']}, Seed: {seed}, Model: {self.model}"
        if ordered:
            infotext += f", Noise Order enabled: True, Noise Order evaluations: {EXTRA}"
            infotext += f', Noise Order skipped: "{self.skipped}"' if self.skipped else ""
        file, info = io.BytesIO(), PngInfo()
        info.add_text("parameters", infotext)
        Image.fromarray(picture).save(file, "PNG", pnginfo=info)
        said = {"infotexts": [infotext], "sd_model_name": self.model, "sd_model_hash": "abc", "version": "small"}
        return {"images": [base64.b64encode(file.getvalue()).decode()], "info": json.dumps(said)}

    def _handler(self):
        webui = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(None)

            def do_POST(self):
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, payload):
                expected = f"Basic {base64.b64encode(webui.auth.encode()).decode()}"
                if webui.auth and self.headers.get("Authorization") != expected:
                    status, body = 401, {"detail": "Incorrect username or password"}
                else:
                    status, body = webui.answer(self.path, payload)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        return Handler
