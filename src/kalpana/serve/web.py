"""The Studio: the web page at /, made of static files that load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from kalpana.serve.errors import not_found
from kalpana.world.lexicon import ART

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent / "studio"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
}
# For Hindi on machines without a font for it.
FONTS = {"mukta.ttf": ART / "fonts" / "Mukta_400Regular.ttf"}
# Scripts, styles and fonts come from files of this server only, pictures also from data and blob
# URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "font-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@router.get("/")
async def index() -> Response:
    """The page."""
    return await file("index.html")


@router.get("/studio/{name}")
async def file(name: str) -> Response:
    """A file of the page."""
    files = {path.name: path for path in FOLDER.iterdir()} | FONTS
    if name not in files:
        raise not_found(f"file {name[:60]!r}")
    path = files[name]
    return FileResponse(path, media_type=TYPES[path.suffix], headers=HEADERS)
