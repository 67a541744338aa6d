"""Fetch pages and count their words on workers: I/O and parsing off this process, a bounded number at a time.

    python examples/web_scraper.py https://example.org https://example.com

Without addresses it serves three pages itself, and fetches those.
"""

import asyncio
import contextlib
import http.server
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser

import wool

PAGES = {
    "/": "<h1>Sheep</h1><p>Sheep grow wool.</p><script>sheep()</script>",
    "/wool": "<p>Wool is warm. Wool is light.</p>",
    "/yarn": "<p>Yarn is spun wool.</p>",
}


class Words(HTMLParser):
    """Counts the words that a reader of the page would see."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.counts.update(word.strip(".,;:!?").lower() for word in data.split())


@wool.routine
async def words(url: str) -> Counter[str]:
    def fetch() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode(errors="replace")

    parser = Words()
    # Blocking code goes to a thread of the worker, so that its loop is free for other pages.
    parser.feed(await asyncio.to_thread(fetch))
    return parser.counts


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGES[self.path].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def pages_of_our_own() -> Iterator[list[str]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield [f"http://127.0.0.1:{server.server_port}{path}" for path in PAGES]
        finally:
            server.shutdown()


async def scrape(urls: list[str]) -> None:
    total: Counter[str] = Counter()
    async with wool.WorkerPool(size=2):
        # An exception of one page is a result like the others: it does not end the rest.
        results = wool.map(words, urls, concurrency=8, return_exceptions=True)
        for url in urls:
            result = await anext(results)
            if isinstance(result, BaseException):
                print(f"{url}: {type(result).__name__}: {result}", file=sys.stderr)
            else:
                total += result
    print(", ".join(f"{word} {count}" for word, count in total.most_common(3)))


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(scrape(sys.argv[1:]))
    else:
        with pages_of_our_own() as urls:
            asyncio.run(scrape(urls))  # wool 4, is 3, sheep 2
