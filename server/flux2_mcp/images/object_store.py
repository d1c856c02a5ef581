"""Images in an object store: S3 and what speaks it, Google Cloud Storage, Azure, or a folder that all machines see.

obstore's blocking calls run in threads: its asynchronous ones need asyncio, and the Python client runs under trio, too. It reads
from the environment how to sign in (AWS_*, GOOGLE_*, AZURE_*). What a service answers may repeat what a request was signed
with, so no error of ours names its cause, and of its text only the status and the service's own word for it are shown.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import StorageError
from flux2_mcp.images.store import CHECK_STORE, MARK, MOVE_AWAY, OTHER_BYTES

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, LocalStore, RetryConfig, S3Store

SECONDS = 20.0
BYTES_IN_TIME = 32 * 1024 * 1024
"""So many seconds one request may take; as long again for each doubling of so many bytes."""
MAX_RETRIES = 2
"""Of one request. A delivery is tried again as a whole."""
PIECE_BYTES = 2**20
MAX_NAMES_ASKED = 20
"""Names that are looked up one by one; more are found in a list of all."""
NAMES_AT_ONCE = 500
"""Names that are deleted in one call."""
PROBE = ".ready"
"""A name that no image has."""
MAX_MARK_BYTES = 256
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{3,60})</Code>|\"reason\": ?\"([A-Za-z]{3,60})\"")


class ObjectStore:
    """An `images.store.ImageStore`.

    Args:
        url: `s3://bucket/prefix`, `gs://...`, `az://...`, or the absolute path of a folder.
        http: Whether its endpoint is plain HTTP, which is for loopback alone.
        seconds: How long one request may take, for up to `BYTES_IN_TIME`; it doubles with their number.
    """

    def __init__(self, url: str, *, http: bool = False, seconds: float = SECONDS) -> None:
        self._url = url
        self._http = http
        self._seconds = seconds
        self._clients: dict[int, AzureStore | GCSStore | LocalStore | S3Store] = {}

    def put(self, name: str, file: Path, image: StoredImage) -> None:
        """See `store.ImageStore.put`."""
        import obstore

        with _in_words():
            store = self._client(image.size_bytes)
        try:
            opened = file.open("rb")
        except OSError as exc:
            raise StorageError(f"The image's file can't be read: {exc.strerror}.") from exc
        with opened, _in_words():
            # The file's own pages are sent: an enlarged image has hundreds of MB.
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            try:
                kind = None if self._local else {"Content-Type": image.mime_type}
                obstore.put(store, name, data, mode="create", attributes=kind)
            except obstore.exceptions.AlreadyExistsError:
                self._compare(name, image)
            finally:
                with suppress(BufferError):  # a request that was given up still holds it, and lets go soon
                    data.close()

    def read(self, name: str, into: BinaryIO, size: int) -> bool:
        """See `store.ImageStore.read`."""
        pieces = self._pieces(name, size)
        while True:
            with _in_words():
                try:
                    piece = next(pieces, None)
                except FileNotFoundError as exc:
                    _object_alone(exc)
                    return False
            if piece is None:
                return True
            into.write(piece)  # what the disk refuses is not the store's trouble

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """See `store.ImageStore.sizes`."""
        import obstore

        found: dict[str, int] = {}
        with _in_words():
            if len(names) > MAX_NAMES_ASKED:
                wanted = frozenset(names)
                for page in obstore.list(self._client()):
                    found |= {each["path"]: each["size"] for each in page if each["path"] in wanted}
                return found
            for name in names:
                with suppress(FileNotFoundError):
                    found[name] = obstore.head(self._client(), name)["size"]
        if len(found) < len(names):  # the answer does not say whether the bucket is there
            self.check()
        return found

    def delete(self, names: Sequence[str]) -> None:
        """See `store.ImageStore.delete`."""
        import obstore

        with _in_words():
            for begin in range(0, len(names), NAMES_AT_ONCE):
                page = list(names[begin : begin + NAMES_AT_ONCE])
                try:
                    obstore.delete(self._client(), page)
                except FileNotFoundError as exc:  # only S3 goes on behind a name that is not there
                    _object_alone(exc)
                    for name in page:
                        with suppress(FileNotFoundError):
                            obstore.delete(self._client(), name)

    def check(self) -> None:
        """See `store.ImageStore.check`."""
        import obstore

        with _in_words():
            try:
                obstore.get(self._client(), PROBE)
            except FileNotFoundError as exc:
                _object_alone(exc)

    def mark(self) -> str | None:
        """See `store.ImageStore.mark`."""
        with _in_words():
            try:
                return b"".join(self._pieces(MARK, MAX_MARK_BYTES))[:MAX_MARK_BYTES].decode("ascii", "replace").strip()
            except FileNotFoundError as exc:
                _object_alone(exc)
                return None

    def set_mark(self, mark: str) -> str:
        """See `store.ImageStore.set_mark`."""
        import obstore

        with _in_words():
            try:
                obstore.put(self._client(), MARK, mark.encode(), mode="create")
            except obstore.exceptions.AlreadyExistsError:
                return self.mark() or ""
        return mark

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes under a name, up to the first piece that is beyond `size`."""
        import obstore

        came = 0
        for piece in obstore.get(self._client(size), name).stream(min_chunk_size=PIECE_BYTES):
            yield bytes(piece)
            if (came := came + len(piece)) > size:
                return

    def _compare(self, name: str, image: StoredImage) -> None:
        """Look at what stands under a name. A delivery that broke off may have put it there, or one of another process."""
        digest, size = hashlib.sha256(), 0
        for piece in self._pieces(name, image.size_bytes):
            digest.update(piece)
            size += len(piece)
        if (size, digest.hexdigest()) != (image.size_bytes, image.sha256):
            raise StorageError(OTHER_BYTES, next_step=MOVE_AWAY)

    @property
    def _local(self) -> bool:
        return "://" not in self._url

    def _client(self, size: int = 0) -> AzureStore | GCSStore | LocalStore | S3Store:
        """The client for requests with so many bytes. A larger image may take longer, a store that says nothing not."""
        times = (max(0, size - 1) // BYTES_IN_TIME).bit_length()
        if (known := self._clients.get(times)) is None:
            known = self._clients[times] = self._made(timedelta(seconds=self._seconds * 2**times))
        return known

    def _made(self, timeout: timedelta) -> AzureStore | GCSStore | LocalStore | S3Store:
        from obstore import store as kinds

        if self._local:
            return kinds.LocalStore(self._url)  # a folder that is missing is not made
        client: ClientConfig = {"timeout": timeout, "allow_http": self._http, "allow_invalid_certificates": False}
        retry: RetryConfig = {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=self._seconds / 2)}
        parts = urlsplit(self._url)
        prefix = unquote(parts.path).strip("/") or None
        if parts.scheme == "s3":
            return kinds.S3Store(parts.netloc, prefix=prefix, client_options=client, retry_config=retry)
        if parts.scheme == "gs":
            return kinds.GCSStore(parts.netloc, prefix=prefix, client_options=client, retry_config=retry)
        return kinds.AzureStore(parts.netloc, prefix=prefix, client_options=client, retry_config=retry)


def _object_alone(exc: FileNotFoundError) -> None:
    """Raise the error again if the whole bucket is missing, not one object."""
    if _NO_BUCKET.search(str(exc)):
        raise exc


@contextmanager
def _in_words() -> Iterator[None]:
    """Change what obstore raises into an error of ours, without its text."""
    from obstore import exceptions

    try:
        yield
    except (exceptions.BaseError, OSError, RuntimeError, ValueError) as exc:
        what, status, code = "did not answer", _STATUS.search(str(exc)), _CODE.search(str(exc))
        if status is not None:
            said = " ".join(filter(None, [status[1], *(code.groups() if code is not None else ())]))
            what = f"refused, with {said}"
        elif isinstance(exc, OSError) and exc.strerror:
            what = f"can't be used: {exc.strerror}"
        elif not isinstance(exc, exceptions.BaseError) or "Error performing" not in str(exc):
            what = "can't be used as it is set up"
        raise StorageError(f"The store of images (FLUX2_IMAGES_URL) {what}.", next_step=CHECK_STORE) from None
