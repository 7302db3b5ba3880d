"""A worker that says exactly what a test wants it to say: for faults that a real one can't be made to show on demand."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Scripted:
    """Speaks OpenAI's API, one script of bytes for every request: pieces to be sent, or seconds to wait between them."""

    def __init__(self):
        self.script = []
        self.kind = "text/event-stream"
        self.bodies = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_POST(self):
                outer.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", outer.kind)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for step in outer.script:
                    if isinstance(step, bytes):
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(step), step))
                        self.wfile.flush()
                    elif outer.stopping.wait(step):
                        return
                self.wfile.write(b"0\r\n\r\n")

        self.stopping = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def says(self, *script, kind="text/event-stream"):
        self.script, self.kind = script, kind

    def stop(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
