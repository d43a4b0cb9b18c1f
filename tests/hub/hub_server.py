"""A hub that behaves badly on purpose, for the tests of `vertebra pull`. The first part of a repository's name says how.

Usage: hub_server.py [FOLDER]. Listens on two free ports of 127.0.0.1 and prints them: the hub, and another host to
redirect to. Ends when its parent does. FOLDER is served as real/model. GET /log answers the requests so far.
Standard library only."""
import hashlib
import http.server
import json
import os
import pathlib
import sys
import threading
import time

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = 3_000_000  # bytes; larger than a socket's buffers, so that a cut is one


def content(name, size):
    """The same bytes for the same name, none of them predictable from their place alone."""
    block = hashlib.sha256(name.encode()).digest() * 64
    return (block * (size // len(block) + 1))[:size]


WEIGHTS = content("weights", BIG)
PLAIN = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
EXTRA = {"pytorch_model.bin": b"pickle", "model.onnx": b"graph", "README.md": b"# A model", "LICENSE": b"Do as you like"}
SHARDS = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "generation_config.json": b"{}",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode(),
    "model-00001-of-00002.safetensors": content("one", 500_000),
    "model-00002-of-00002.safetensors": content("two", 400_000),
    "consolidated.safetensors": b"the same again",
    **EXTRA,
}
GGUF = {
    "small-Q4_K_M.gguf": b"GGUF four" * 100,
    "small-Q4_K.gguf": b"GGUF other" * 100,
    "small.Q8_0.gguf": b"GGUF eight" * 100,
    "mmproj-small-F16.gguf": b"GGUF eyes",
    "big-F16-00001-of-00002.gguf": b"GGUF half",
    "big-F16-00002-of-00002.gguf": b"GGUF other half",
    "big-F32-00001-of-00003.gguf": b"GGUF third",
    "sub/folder/deep-Q2_K.gguf": b"GGUF deep" * 10,
}


def escaping(name):
    return {"config.json": b"{}", "model.safetensors.index.json": json.dumps({"weight_map": {"a": name}}).encode(),
            name: b"evil"}


REPOSITORIES = {
    "shards": SHARDS,
    "gguf": GGUF,
    "one": {"only-Q4_0.gguf": b"GGUF only"},
    "pickle": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
    "escape": escaping("../../evil.safetensors"),
    "absolute": escaping("/tmp/evil.safetensors"),
    "drive": escaping("C:\\evil.safetensors"),
    "missingshard": {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "no.safetensors"}}'},
}
requests = []
counts = {}
lock = threading.Lock()
ports = []


def files_of(org):
    if org == "real":
        folder = pathlib.Path(sys.argv[1])
        return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
    return REPOSITORIES.get(org, PLAIN)


def sibling(org, name, data):
    out = {"rfilename": name, "size": len(data)}
    if name.endswith((".safetensors", ".gguf", ".bin", ".onnx")):
        out["blobId"] = "0" * 40
        out["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    else:
        out["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if org == "nohash" and name == "model.safetensors":
        del out["lfs"]
        del out["blobId"]
    if org == "huge" and name == "model.safetensors":
        out["size"] = out["lfs"]["size"] = 1 << 43  # what no disk here holds
    return out


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def cut(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def do_GET(self):
        with lock:
            number = counts[self.path] = counts.get(self.path, 0) + 1
            if self.path != "/log":
                requests.append({"path": self.path, "port": self.server.server_port, "number": number,
                                 "token": self.headers.get("Authorization"), "range": self.headers.get("Range"),
                                 "if_range": self.headers.get("If-Range"),
                                 "encoding": self.headers.get("Accept-Encoding")})
        try:
            self.route(number)
        except (BrokenPipeError, ConnectionResetError, OSError):
            self.close_connection = True

    def route(self, number):
        if self.path == "/log":
            with lock:
                return self.answer(200, json.dumps(requests).encode())
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.listing(parts[2], "/".join(parts[2:4]), parts[5], number)
        if len(parts) > 4 and parts[2] == "resolve":
            return self.file(parts[0], "/".join(parts[4:]), number)
        return self.answer(404)

    def listing(self, org, name, revision, number):
        if org == "s401":
            return self.answer(401, X_Error_Code="RepoNotFound")
        if org == "s404":
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if org == "private" and self.headers.get("Authorization") != "Bearer secret-token":
            return self.answer(401)
        if org == "busy" and number <= 2:
            return self.answer(429, b"slow down", Retry_After="0")
        if org == "later":
            return self.answer(503, Retry_After="86400")
        if org == "renamed":
            return self.answer(307, Location=self.path.replace("renamed/", "plain/"))
        if org == "nojson":
            return self.answer(200, b"<html>log in first</html>")
        if org == "longlist":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"[" * 65536)
        if org == "moved" and revision == "main":
            return self.answer(302, Location="/api/models/%s/revision/other" % name)
        listed = [sibling(org, *each) for each in files_of(org).items()]
        if org == "twice":
            listed += listed[:1]
        commit = {"badcommit": "../../..", "othercommit": "f" * 40}.get(org, COMMIT)
        self.answer(200, json.dumps({"id": name, "sha": commit, "siblings": listed}).encode())

    def file(self, org, name, number):
        data = files_of(org)[name]
        large = name == "model.safetensors"
        on_hub = self.server.server_port == ports[0]
        here = "http://127.0.0.1:%d" % ports[0]
        if org == "gated":
            return self.answer(403, X_Error_Code="GatedRepo")
        if org == "broken" and large:
            return self.answer(500)
        if org in ("redirect", "private", "back") and large and on_hub and "signed" not in self.path:
            return self.answer(302, Location="http://127.0.0.1:%d%s?signed=secret" % (ports[1], self.path))
        if org == "back" and large and not on_hub:  # and home again: the token stays dropped
            return self.answer(302, Location=here + self.path)
        if org == "circle":
            return self.answer(302, Location=self.path)
        if org == "chain":
            return self.answer(302, Location=self.path.split("?")[0] + "?%d" % len(requests))
        if org == "tofile":
            return self.answer(302, Location="file:///etc/passwd")
        if org == "gzip" and large:
            return self.answer(200, b"\x1f\x8b" + b"\0" * 100, Content_Encoding="gzip")
        if org == "long" and large:
            return self.answer(200, data + b"more")
        if org == "endless" and large:
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(content("endless", 65536))
        if org == "wrong" and large:
            data = data[:1000] + b"?" + data[1001:]
        etag = '"%s"' % hashlib.sha256(data).hexdigest()
        if org == "newtag":
            etag = '"%d"' % number
        self.serve(org, data, etag, number, large)

    def serve(self, org, data, etag, number, large):
        begin = 0
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if asked and org != "norange" and condition in (None, etag):
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if begin else 200)
        if begin:
            first = begin + 7 if org == "badrange" else begin
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, len(data) - 1, len(data)))
        rest = data[begin:]
        if org == "unsized":  # a cut then looks like the end
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", etag)
        self.end_headers()
        if not large:
            return self.wfile.write(rest)
        if org in ("cut", "unsized") and number <= 3:
            self.wfile.write(rest[: len(rest) * 2 // 5])
            return self.cut()
        if org in ("norange", "badrange", "newtag", "stall") and number == 1:
            self.wfile.write(rest[: len(rest) // 2])
            if org != "stall":
                return self.cut()
            self.wfile.flush()
            time.sleep(30)
        if org == "always":  # never more than this at a time
            self.wfile.write(rest[:200_000])
            if len(rest) > 200_000:
                return self.cut()
            return None
        self.wfile.write(rest)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):  # clients that go away in the middle are what is tested
        pass


def main():
    servers = [Server(("127.0.0.1", 0), Hub) for _ in range(2)]
    ports.extend(each.server_port for each in servers)
    for each in servers:
        threading.Thread(target=each.serve_forever, daemon=True).start()
    print(*ports, flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.2)


main()
