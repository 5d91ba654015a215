"""Where the older generation's experiments lie: a DynamoDB table, an SQS queue.

Owns the calls to AWS and what their failures mean. What a row says is `tasks.migrate.rows`'.

Invariants:
- nothing is changed in the table; a message is deleted only by `delete`, after what it says is kept;
- a message that is not deleted is back in the queue when `Queue.release` has run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from codec.errors import BadInputError, EvocodecError

# How long nobody else sees a message that is being looked at: longer than looking takes.
HIDDEN_SECONDS: Final = 300
# An answer without waiting asks a part of the servers only, and may be empty where the queue is not.
WAIT_SECONDS: Final = 2
BATCH: Final = 10  # the most that SQS gives at once


class Table:
    """A table, scanned page by page."""

    def __init__(self, name: str, *, region: str | None, endpoint_url: str | None) -> None:
        """Raises BadInputError where there is no such table, region or credentials."""
        self.name = name
        self._client = aws_client("dynamodb", region, endpoint_url)

    def rows(self) -> Iterator[dict[str, Any]]:
        from boto3.dynamodb.types import TypeDeserializer  # type: ignore[import-untyped]

        read = TypeDeserializer().deserialize
        with explained(f"table {self.name}"):
            for page in self._client.get_paginator("scan").paginate(TableName=self.name, ConsistentRead=True):
                for item in page["Items"]:
                    yield {name: read(value) for name, value in item.items()}


@dataclass(frozen=True)
class Message:
    identity: str
    body: str
    handle: str


@dataclass
class Queue:
    """A queue, emptied message by message. Use `Queue.open`."""

    url: str
    client: Any
    wait_seconds: int = WAIT_SECONDS
    _held: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, url: str, *, region: str | None, endpoint_url: str | None) -> Queue:
        """Raises BadInputError where there are no credentials or no region."""
        return cls(url, aws_client("sqs", region, endpoint_url))

    def batches(self) -> Iterator[list[Message]]:
        """What waits in the queue, each message once, until none is left to be seen."""
        while True:
            with explained(f"queue {self.url}"):
                found = self.client.receive_message(
                    QueueUrl=self.url,
                    MaxNumberOfMessages=BATCH,
                    VisibilityTimeout=HIDDEN_SECONDS,
                    WaitTimeSeconds=self.wait_seconds,
                ).get("Messages", [])
            messages = [Message(m["MessageId"], m["Body"], m["ReceiptHandle"]) for m in found]
            fresh = [message for message in messages if message.identity not in self._held]
            self._held |= {message.identity: message.handle for message in messages}
            if not fresh:
                return
            yield fresh

    def delete(self, message: Message) -> None:
        with explained(f"queue {self.url}"):
            self.client.delete_message(QueueUrl=self.url, ReceiptHandle=message.handle)
        del self._held[message.identity]

    def release(self) -> None:
        """Let others see at once what was not deleted."""
        for handle in self._held.values():
            with explained(f"queue {self.url}"):
                self.client.change_message_visibility(QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=0)
        self._held.clear()


def aws_client(service: str, region: str | None, endpoint_url: str | None) -> Any:
    """A boto3 client. Raises BadInputError where no region is known."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    with explained(service):
        settings = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=5, read_timeout=30)
        return boto3.client(service, region_name=region, endpoint_url=endpoint_url, config=settings)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """AWS's errors as one line with the remedy."""
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        NoRegionError,
    )

    try:
        yield
    except NoCredentialsError as error:
        raise BadInputError(
            f"{what}: no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except NoRegionError as error:
        raise BadInputError(f"{what}: no AWS region; give --region, or set AWS_DEFAULT_REGION") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in NOT_THERE:
            raise BadInputError(f"{what}: there is none of that name in this region and account") from error
        raise EvocodecError(f"{what}: {_first_line(error)}") from error
    except (BotoCoreError, ValueError) as error:
        raise EvocodecError(f"{what}: {_first_line(error)}") from error


NOT_THERE: Final = (
    "ResourceNotFoundException",
    "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDoesNotExist",
)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
