"""What DynamoDB's refusals and failures mean to the state port: the one table.

Owns the mapping. Refuses to know what was asked, but for whether it was a write.

| answer                                                                    | a write is                              |
|---------------------------------------------------------------------------|-----------------------------------------|
| 400 ConditionalCheckFailedException                                       | refused or unfit: the item says which   |
| 400 ValidationException of a path or a type that an update can't work on  | the same; the item is read first        |
| 400 ValidationException of an item above 400 KB                           | Misfit                                  |
| 400 ValidationException of an index that the table lacks                  | Unavailable, and says so                |
| 400 any other ValidationException, SerializationException                 | a mistake of ours: RuntimeError         |
| 400 throttled, in a transaction's way, no such table, keys or permissions | Unavailable: surely not applied         |
| any other 4xx, a redirect                                                 | Unavailable                             |
| 5xx                                                                       | OutcomeUnknown: it may have been done   |
| no connection                                                             | Unavailable                             |
| no answer in time, a broken connection, an answer that can't be read      | OutcomeUnknown                          |

A read is Unavailable in all of these. Source: "Error handling with DynamoDB", and the errors of PutItem, UpdateItem,
DeleteItem, GetItem and Query in the API reference.
"""

from __future__ import annotations

from typing import Any, Final

from buspass.jsontext import read
from buspass.ports.outbound import Response

EXPIRED: Final = frozenset({"ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"})
"""Other keys may help."""
THROTTLED: Final = frozenset({"ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"})
_OURS: Final = frozenset({"ValidationException", "SerializationException"})
_UNFIT: Final = ("document path provided in the update expression is invalid", "incorrect data type")
_LARGE: Final = ("item size", "size has exceeded", "size to update has exceeded")


class Answer:
    """What came back, read once."""

    def __init__(self, response: Response) -> None:
        self.status = response.status
        try:
            self.body: Any = read(response.body)
        except ValueError:
            self.body = None
        body = self.body if isinstance(self.body, dict) else {}
        self.code = str(body.get("__type") or "").rpartition("#")[2]
        self.message = str(body.get("message") or body.get("Message") or "")

    @property
    def fine(self) -> bool:
        """Whether this is the answer to what was asked."""
        return self.status == 200 and isinstance(self.body, dict)

    @property
    def refused(self) -> bool:
        """Whether the condition did not hold; the item comes with it."""
        return self.code == "ConditionalCheckFailedException"

    @property
    def unfit(self) -> bool:
        """Whether the update could not work on the item; the item does not come with it."""
        return self.code == "ValidationException" and any(text in self.message for text in _UNFIT)

    @property
    def too_large(self) -> bool:
        """Whether the item would be larger than DynamoDB keeps."""
        said = self.message.lower()
        return self.code == "ValidationException" and any(text in said for text in _LARGE)

    @property
    def unknown(self) -> bool:
        """Whether a write may have been done all the same."""
        return self.status >= 500 or (self.status == 200 and not self.fine)

    @property
    def throttled(self) -> bool:
        """Whether DynamoDB asks for patience."""
        return self.code in THROTTLED

    @property
    def expired(self) -> bool:
        """Whether the access keys were."""
        return self.code in EXPIRED

    def why(self, table: str, region: str) -> str:
        """Say what is the matter, for an Unavailable. Raises RuntimeError where the mistake is this adapter's."""
        where = f"DynamoDB table {table!r} in {region}"
        if self.code == "ResourceNotFoundException":
            return (
                f"{where} is not there, or not yet ready: create it as `python -m buspass_aws.dynamodb_table {table}` "
                f"describes it; the gateway never does"
            )
        if "specified index" in self.message:
            return f"{where}: {self.message}; add the index as `python -m buspass_aws.dynamodb_table` describes it"
        if self.code in _OURS:
            raise RuntimeError(f"{where} can't be asked this: {self.code}: {self.message}")
        return f"{where}: {self.status} {self.code or 'without a code'}: {self.message or 'no message'}"
