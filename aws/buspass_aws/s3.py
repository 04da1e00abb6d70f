"""S3 as a blobs store: an object a blob, whole and conditional puts, S3's own entity tags.

Owns the requests, the addresses and what S3's answers mean. Refuses to know what the bytes are, and how a request is
signed and sent (`client`). The bucket is there already: nothing here creates one.

S3 replaces an object atomically and is strongly consistent, lists included, in the order of the keys' bytes: the port
asks no more. (Directory buckets list in no order and are refused.) Keys in the bucket that are no blob's name, or lie
outside the prefix, are passed over. A tag is S3's ETag, which changes with the bytes.

| answer                                                            | means                                  |
|-------------------------------------------------------------------|----------------------------------------|
| 412 on a put; 404 NoSuchKey on a put with if_match                | BlobConflict                           |
| 409 ConditionalRequestConflict: a neighbour's put at the same time | tried again, then BlobsUnavailable     |
| 404 NoSuchKey on a get or a delete                                | nothing is there                       |
| 403, 404 NoSuchBucket, a redirect to another region, 503, …       | BlobsUnavailable, with what S3 said    |
| no connection, no answer in time, a broken connection             | BlobsUnavailable                       |

Gets, lists, deletes and unconditional puts may be repeated, and are, three times at most. A conditional put is sent
once, because its second try could meet its first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_plus

from buspass.ports.blobs import BlobConflict, Blobs, BlobsUnavailable, check_name, check_page, check_put
from buspass.ports.outbound import Ambiguous, NotSent, Response
from buspass_aws.client import TRIES, AwsClient, address, pause, suffix, transient
from buspass_aws.signing import escaped

TIMEOUT: Final = 30.0
"""Seconds that one try may take."""
_FORM: Final = "s3://BUCKET[/PREFIX]?region=REGION"
_OPTIONS: Final = frozenset({"encryption", "owner"})
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_FOLDER: Final = re.compile(r"(/[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,127}){0,3}/?")
_KEY_ID: Final = re.compile(r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(key|alias)/|alias/)?[A-Za-z0-9/_-]+")
_TAG: Final = re.compile(r"[!#-~]{1,200}")
_KEY: Final = re.compile(rb"<Key>([^<]*)</Key>")
_MORE: Final = re.compile(rb"<IsTruncated>\s*true\s*</IsTruncated>")
_CODE: Final = re.compile(rb"<Code>([^<]{1,100})</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]{1,300})</Message>")


async def open(url: str) -> Blobs:  # noqa: A001  (the name of every adapter's way in)
    """Open `s3://BUCKET[/PREFIX]?region=REGION[&encryption=…][&owner=…][&endpoint=URL]`. Asks nothing.

    `encryption`: AES256, or the id, alias or ARN of a KMS key; without it the bucket's own default encrypts. `owner`:
    the account that must own the bucket, or S3 refuses. `endpoint`: https, or http on this machine. Raises ValueError.
    """
    parts = address(url, _FORM, _OPTIONS)
    if not _BUCKET.fullmatch(parts.name) or not _FOLDER.fullmatch(parts.rest):
        raise ValueError(f"blobs {url!r}: allowed is {_FORM}; a prefix is 1-3 segments [A-Za-z0-9_.:-]{{1,128}}")
    if parts.name.endswith("--x-s3"):
        raise ValueError(
            f"blobs {url!r}: a directory bucket does not list in order; allowed are general purpose buckets"
        )
    encryption, owner = parts.options.get("encryption"), parts.options.get("owner")
    if encryption is not None and not _KEY_ID.fullmatch(encryption):
        raise ValueError(f"blobs {url!r}: encryption {encryption!r}; allowed are AES256 and the name of a KMS key")
    if owner is not None and not re.fullmatch(r"\d{12}", owner):
        raise ValueError(f"blobs {url!r}: owner {owner!r}; allowed is the number of an account, 12 digits")
    service = f"s3.{parts.region}.{suffix(parts.region)}"
    # A dot in a bucket's name does not fit the certificate of its own host; a stand-in has no hosts at all.
    own_host = not parts.endpoint and "." not in parts.name
    base = f"https://{parts.name}.{service}" if own_host else parts.endpoint or f"https://{service}"
    root = "" if own_host else f"/{parts.name}"
    folder = parts.rest.strip("/")
    return S3Blobs(
        AwsClient("s3", parts.region, base),
        bucket=parts.name,
        root=root,
        folder=f"{folder}/" if folder else "",
        guard={"x-amz-expected-bucket-owner": owner} if owner else {},
        sealed=_encryption(encryption),
    )


def _encryption(chosen: str | None) -> dict[str, str]:
    """Give the headers that a put carries."""
    if chosen is None:
        return {}
    if chosen == "AES256":
        return {"x-amz-server-side-encryption": "AES256"}
    return {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": chosen,
        "x-amz-server-side-encryption-bucket-key-enabled": "true",  # one call to KMS for many objects
    }


class S3Blobs:
    """The port over a bucket that is there."""

    def __init__(
        self, client: AwsClient, *, bucket: str, root: str, folder: str, guard: dict[str, str], sealed: dict[str, str]
    ) -> None:
        self._client, self._bucket, self._root, self._folder = client, bucket, root, folder
        self._guard, self._sealed = guard, sealed

    async def put(self, name: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        check_put(name, data, if_match, if_none_match)
        headers = {"content-type": "application/octet-stream", **self._sealed}
        if if_none_match:
            headers["if-none-match"] = "*"
        elif if_match is not None:
            if not _TAG.fullmatch(if_match):
                raise BlobConflict(f"blob {name!r} has no tag {if_match!r}: that is none of S3's")
            headers["if-match"] = f'"{if_match}"'
        once = if_none_match or if_match is not None
        for _ in range(TRIES):
            answer = await self._asked("PUT", self._path(name), once=once, headers=headers, body=data)
            code = _found(_CODE, answer)
            if code != "ConditionalRequestConflict":
                break
            await pause(1)
        if answer.status == 200:
            return _tag(answer)
        if answer.status == 412 or (code == "NoSuchKey" and if_match is not None):
            raise BlobConflict(f"blob {name!r}: another wrote, or deleted, first")
        raise self._away(answer)

    async def get(self, name: str) -> tuple[bytes, str] | None:
        check_name(name)
        answer = await self._asked("GET", self._path(name))
        if answer.status == 200:
            return answer.body, _tag(answer)
        self._nothing(answer)
        return None

    async def delete(self, name: str) -> None:
        check_name(name)
        answer = await self._asked("DELETE", self._path(name))
        if answer.status not in {200, 204}:
            self._nothing(answer)

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        check_page(prefix, after, limit)
        names: Names = []
        last = after
        while True:
            query = {
                "list-type": "2",
                "encoding-type": "url",
                "prefix": self._folder + prefix,
                "max-keys": str(limit - len(names)),
            }
            if last:
                query["start-after"] = self._folder + last
            answer = await self._asked("GET", self._root + "/", query=query)
            if answer.status != 200:
                raise self._away(answer)
            keys = [unquote_plus(key.decode())[len(self._folder) :] for key in _KEY.findall(answer.body)]
            names += [key for key in keys if _is_name(key)]
            if len(names) >= limit or not keys or not _MORE.search(answer.body):
                return names
            last = keys[-1]

    async def close(self) -> None:
        await self._client.close()

    # ── asking ──

    def _path(self, name: str) -> str:
        return f"{self._root}/{escaped(self._folder + name, slash=True)}"

    async def _asked(self, method: str, path: str, *, once: bool = False, **parts: Any) -> Response:
        parts["headers"] = {**parts.get("headers", {}), **self._guard}
        try:
            async with self._client.working():
                if once:
                    return await self._client.send(method, path, timeout=TIMEOUT, **parts)
                return await self._client.ask(method, path, timeout=TIMEOUT, again=transient, **parts)
        except (NotSent, Ambiguous) as error:
            raise BlobsUnavailable(f"S3 bucket {self._bucket!r}: {error}") from error

    def _nothing(self, answer: Response) -> None:
        """Accept that nothing is there; anything else is trouble."""
        if answer.status != 404 or _found(_CODE, answer) != "NoSuchKey":
            raise self._away(answer)

    def _away(self, answer: Response) -> BlobsUnavailable:
        code = _found(_CODE, answer)
        if code in {"ExpiredToken", "InvalidAccessKeyId"}:
            self._client.renew()
        said = f"{answer.status} {code or 'without a code'}: {_found(_MESSAGE, answer) or 'no message'}"
        if code == "NoSuchBucket":
            said += "; create it: the gateway never does"
        elif answer.status == 403:
            said += "; S3 says so for what is not there, too, unless s3:ListBucket is allowed"
        elif answer.status in {301, 307, 400} and "region" in said.lower():
            said += "; `region` must be the bucket's"
        return BlobsUnavailable(f"S3 bucket {self._bucket!r}: {said}")


type Names = list[str]


def _is_name(key: str) -> bool:
    try:
        check_name(key)
    except ValueError:
        return False
    return True


def _tag(answer: Response) -> str:
    return answer.headers.get("etag", "").strip('"')


def _found(pattern: re.Pattern[bytes], answer: Response) -> str:
    match = pattern.search(answer.body)
    return match[1].decode(errors="replace") if match else ""
