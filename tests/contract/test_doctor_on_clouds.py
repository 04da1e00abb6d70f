"""`buspass doctor` on the clouds' stores, keys and secrets, by their stand-ins: all well, then one thing missing at a time."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aws_servers import KEYS, Ministack, asked, create_bucket, create_table

from buspass.doctor import Finding
from buspass.http import examining
from buspass.http.compose import composed
from buspass.http.examining import examined
from buspass.model import Limits
from buspass.testing.cosmos_server import CosmosServer, serving_cosmos
from buspass.testing.keyvault_server import KeyVaultServer, serving_key_vault
from buspass.testing.outbound import AsgiOutbound
from buspass.testing.provider import Provider
from buspass_aws import client, dynamodb, json_service
from buspass_azure import cosmos, cosmos_account, keyvault

pytestmark = pytest.mark.verify

PROVIDER = "127.0.0.1:9001"
KEY = "provider-key-7c1"
LIMITS = Limits(request_bytes=6_000_000, response_bytes=6_000_000, first_byte=60, total=60)


def reached() -> AsgiOutbound:
    return AsgiOutbound({PROVIDER: Provider(KEY).app})


class Clouds:
    """One domain of two hosts: `aws` on DynamoDB, S3 and KMS, `azure` on Cosmos DB and Key Vault; Secrets Manager for both.

    Names are new for every test: no stand-in has what another test put there.
    """

    def __init__(self, folder: Path, ministack: Ministack, account: CosmosServer, vault: KeyVaultServer) -> None:
        self.folder, self.aws, self.account, self.vault = folder, ministack, account, vault
        self.name = f"b-{uuid.uuid4().hex[:12]}"
        at = f"region=eu-central-1&endpoint={ministack.url}"
        self.places = {
            "dynamodb": f"dynamodb://{self.name}?{at}",
            "s3": f"s3://{self.name}?{at}",
            "kms": f"kms://alias/{self.name}?{at}",
            "cosmos": f"cosmos://loopback/db?endpoint={account.url}&key=COSMOS_KEY",
            "keyvault": f"keyvault://a-vault/domain?endpoint={vault.url}",
        }
        self.environ = {
            "BUSPASS_SECRETS": f"secretsmanager://{self.name}?{at}",
            "BUSPASS_CONFIG": str(folder / "buspass.yaml"),
            "BUSPASS_DATA": str(folder / "data"),
        }

    async def furnish(self) -> None:
        """Make all that a domain needs, as whoever deploys it does."""
        await create_table(self.aws.url, self.name)
        await create_bucket(self.aws.url, self.name)
        made = await asked(self.aws.url, "kms", "CreateKey", KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        identity = made["KeyMetadata"]["KeyId"]
        await asked(self.aws.url, "kms", "CreateAlias", AliasName=f"alias/{self.name}", TargetKeyId=identity)
        for name, value in {"PROVIDER_KEY": KEY, "BUSPASS_DOMAIN_KEY": "00" * 32}.items():
            await asked(self.aws.url, "secretsmanager", "CreateSecret", Name=f"{self.name}/{name}", SecretString=value)
        self.vault.add("domain")
        self.write()

    def write(self) -> None:
        where, host = self.places, {"url": "http://127.0.0.1:8700", "region": "here"}
        document: dict[str, Any] = {
            "version": 1,
            "issuer": "http://127.0.0.1:8700",
            "domain_key": {"secret": "BUSPASS_DOMAIN_KEY"},
            "hosts": {
                "aws": {**host, "cloud": "aws", "signer": where["kms"], "state": where["dynamodb"]},
                "azure": {**host, "cloud": "azure", "signer": where["keyvault"], "state": where["cosmos"]},
            },
            "blobs": where["s3"],
            "providers": {
                "first": {
                    "api": "openai",
                    "base_url": f"http://{PROVIDER}/v1",
                    "auth": {"bearer": {"secret": "PROVIDER_KEY"}},
                }
            },
            "models": {"plan": {"targets": [{"provider": "first", "model": "planner-1"}]}},
            "prices": {"first/planner-1": {"input": 1.0, "output": 10.0}},
            "workflows": {
                "work": {"agents": [{"identity": "local", "agent": "*"}], "models": ["plan"], "budget": {"cost": 1.0}}
            },
        }
        (self.folder / "buspass.yaml").write_text(yaml.safe_dump(document), "utf-8")

    async def start(self, host: str) -> None:
        """Bring a host up once, so that its key is in the store."""
        await (await composed({**self.environ, "BUSPASS_HOST": host}, LIMITS, outbound=reached())).close()

    async def see(self, host: str) -> list[Finding]:
        return await examined({**self.environ, "BUSPASS_HOST": host}, outbound=reached())


@pytest.fixture
async def clouds(tmp_path: Path, ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clouds]:
    for module, name in ((cosmos_account, "CONNECT_SECONDS"), (cosmos_account, "ANSWER_SECONDS"), (cosmos, "PATIENCE")):
        monkeypatch.setattr(module, name, 100.0)  # service and client share a process
    for module, name in ((dynamodb, "WRITE"), (dynamodb, "READ"), (json_service, "TIMEOUT"), (examining, "SECONDS")):
        monkeypatch.setattr(module, name, 100.0)
    monkeypatch.setattr(keyvault, "CONNECT_SECONDS", 100)
    monkeypatch.setattr(keyvault, "ANSWER_SECONDS", 100)
    monkeypatch.setattr(keyvault, "PAUSE", 0)
    monkeypatch.setattr(client, "_PAUSE", 0.0)
    account = CosmosServer()
    account.add("db", "buspass")
    async with serving_cosmos(account), serving_key_vault(KeyVaultServer()) as vault:
        for name, value in {**KEYS, **vault.environ, "COSMOS_KEY": account.key}.items():
            monkeypatch.setenv(name, value)
        clouds = Clouds(tmp_path, ministack, account, vault)
        await clouds.furnish()
        yield clouds


def shown(found: list[Finding]) -> str:
    return "\n".join(f"{each.status} {each.check} {each.about}: {each.what} → {each.remedy}" for each in found)


@pytest.mark.parametrize("host", ["aws", "azure"])
async def test_all_is_well_on_a_clouds_stores(clouds: Clouds, host: str) -> None:
    await clouds.start(host)
    found = await clouds.see(host)
    asked_ = {each.check for each in found if each.status == "ok"}
    assert {"secrets", "signer", "state", "keys", "timer", "blobs", "providers"} <= asked_, shown(found)
    # the provider in this process gives no time to go by; nobody operates a host without an issuer or a data directory
    wrong = {each.check for each in found if each.status != "ok"}
    assert wrong <= {"clock", "operator"}, shown(found)
    assert "failed" not in {each.status for each in found}


type Plant = Callable[[Clouds], None]


def elsewhere(place: str, old: str, new: str) -> Plant:
    def plant(clouds: Clouds) -> None:
        changed = clouds.places[place].replace(old.format(name=clouds.name), new, 1)
        assert changed != clouds.places[place]
        clouds.places[place] = changed
        clouds.write()

    return plant


def no_secrets(clouds: Clouds) -> None:
    clouds.environ["BUSPASS_SECRETS"] = clouds.environ["BUSPASS_SECRETS"].replace(clouds.name, "nobodys")


FAULTS: dict[str, tuple[str, Plant, str, str]] = {
    "a table that is not there": ("aws", elsewhere("dynamodb", "{name}", "nobodys-table"), "state", "nobodys-table"),
    "a bucket that is not there": ("aws", elsewhere("s3", "{name}", "nobodys-bucket"), "blobs", "nobodys-bucket"),
    "a key that is not there": (
        "aws",
        elsewhere("kms", "{name}", "nobodys-key"),
        "signer",
        "make the key, and the alias",
    ),
    "secrets that are not there": ("aws", no_secrets, "domain_key", "nobodys/BUSPASS_DOMAIN_KEY"),
    "a container that is not there": ("azure", elsewhere("cosmos", "/db", "/nobodys-db"), "state", "nobodys-db"),
    "an account's key that is another": ("azure", elsewhere("cosmos", "COSMOS_KEY", "OTHER_KEY"), "state", "401"),
    "a vault's key that is not there": ("azure", elsewhere("keyvault", "/domain", "/nobodys"), "signer", "nobodys"),
}


@pytest.mark.parametrize(("host", "plant", "check", "says"), FAULTS.values(), ids=FAULTS)
async def test_each_planted_fault_is_named_and_hides_no_other_part(
    clouds: Clouds, monkeypatch: pytest.MonkeyPatch, host: str, plant: Plant, check: str, says: str
) -> None:
    monkeypatch.setenv("OTHER_KEY", "b3RoZXI=")
    await clouds.start(host)
    plant(clouds)
    found = await clouds.see(host)
    failed = [each for each in found if each.status == "failed"]
    assert check in {each.check for each in failed}, shown(found)
    assert all(each.check in {check, "secrets", "timer"} for each in failed), shown(found)  # what asks the same part
    assert says in shown([each for each in failed if each.check == check]), shown(found)
    assert all(each.remedy for each in failed)
    assert KEY not in shown(found)
    assert clouds.account.key not in shown(found)
    well = {each.check for each in found if each.status == "ok"}
    assert {"state", "signer", "blobs"} - {check} <= well, shown(found)
