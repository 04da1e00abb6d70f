"""The Bicep of infra/azure says what the code needs: settings, roles, stores. No compiler judges it here, so this does.

Whether it parses and what checkov finds in it: test_infra_tools.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from buspass_azure import blobs, cosmos_account, keyvault

ROOT = Path(__file__).parents[2]
AZURE = ROOT / "infra" / "azure"
MAIN = (AZURE / "main.bicep").read_text("utf-8")
MODULES = {path.stem: path.read_text("utf-8") for path in sorted((AZURE / "modules").glob("*.bicep"))}
WHOLE = "\n".join([MAIN, *MODULES.values()])
PARAMETERS = sorted(AZURE.glob("*.parameters.json"))
ROLES = {
    "Key Vault Crypto User": "12338af0-0e69-4776-bea7-57ae8d297424",
    "Key Vault Secrets User": "4633458b-17de-408a-b874-0445c86b69e6",
    "Storage Blob Data Contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "Storage Blob Data Owner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    "Storage Table Data Contributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",
    "Monitoring Metrics Publisher": "3913510d-42f4-4e42-8a64-420c390055eb",
}
"""As learn.microsoft.com/azure/role-based-access-control/built-in-roles has them."""
OF_THE_HOST = {
    "AzureWebJobsStorage__accountName",
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__clientId",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "PYTHON_ENABLE_INIT_INDEXING",
}
"""Settings that the Functions host reads, as its reference of application settings has them."""


def parameters(text):
    """The names of a file's parameters, and whether they have a default."""
    return {name: bool(default) for name, default in re.findall(r"^param (\w+) \w+( = )?", text, re.MULTILINE)}


def called():
    """What main.bicep gives to each module."""
    found = re.findall(
        r"^module \w+ 'modules/(\w+)\.bicep'.*?^  params: \{\n(.*?)^  \}", MAIN, re.MULTILINE | re.DOTALL
    )
    return {name: set(re.findall(r"^    (\w+):", body, re.MULTILINE)) for name, body in found}


def settings():
    listed = MODULES["app"].split("var own = [")[1].split("\n]\n")[0]
    return dict(re.findall(r"name: '(\w+)'\n    value: (.*)", listed))


def evaluated(text):
    """A text of main.bicep with its variables, for the longest name that is allowed."""
    known = {"name": "abcdefghij", "suffix": "k7m2p4q6r8s1t"}
    for _ in range(3):
        for variable, value in re.findall(r"^var (\w+) = '(.*)'$", MAIN, re.MULTILINE):
            known[variable] = re.sub(r"\$\{(?:take\((\w+), (\d+)\)|(\w+))\}", lambda found: filled(found, known), value)
    return re.sub(r"\$\{(?:take\((\w+), (\d+)\)|(\w+))\}", lambda found: filled(found, known), text)


def filled(found, known):
    return known[found[1]][: int(found[2])] if found[1] else known.get(found[3], found[0])


def output(name):
    return evaluated(
        re.search(rf"^output {name} string = .*?'((?:keyvault|cosmos|azblob)://.*?)'", MAIN, re.MULTILINE)[1]
    )


def test_every_module_is_given_exactly_what_it_asks_for():
    asked = {name: set(parameters(text)) for name, text in MODULES.items()}
    assert called() == asked
    assert not any(default for text in MODULES.values() for default in parameters(text).values())


def test_every_parameter_and_variable_is_used():
    for name, text in {"main": MAIN, **MODULES}.items():
        declared = set(parameters(text)) | set(re.findall(r"^var (\w+) =", text, re.MULTILINE))
        assert {each for each in declared if len(re.findall(rf"\b{each}\b", text)) < 2} == set(), name


@pytest.mark.parametrize("path", PARAMETERS, ids=lambda path: path.name)
def test_a_stage_sets_only_what_there_is(path):
    given = {name: each["value"] for name, each in json.loads(path.read_text("utf-8"))["parameters"].items()}
    known = parameters(MAIN)
    assert set(given) <= set(known)
    assert {name for name, default in known.items() if not default} <= set(given)
    for name, values in re.findall(r"@allowed\(\[\n(.*?)\]\)\nparam (\w+)", MAIN, re.DOTALL):
        if values in given:
            assert str(given[values]) in re.findall(r"[\w.]+", name), values
    assert {each["setting"] for each in given["secrets"]} >= {"BUSPASS_DOMAIN_KEY"}
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", each["secret"]) for each in given["secrets"])  # a vault takes no other
    assert re.fullmatch(r"[a-z][a-z0-9]{2,9}", given["name"])  # a storage account takes no other


def test_prod_keeps_what_dev_may_lose():
    prod = json.loads((AZURE / "prod.parameters.json").read_text("utf-8"))["parameters"]
    assert prod["deletionProtection"]["value"] is True
    assert prod["backup"]["value"] == "Continuous30Days"


# ── what the code reads ─────────────────────────────────────────────────────────────────────────────────────────────


def test_each_setting_is_read_by_somebody():
    ours = "\n".join(path.read_text("utf-8") for path in (ROOT / "core").rglob("*.py"))
    constants = Path(sys.prefix).glob("lib/python*/site-packages/azure/identity/_constants.py")
    theirs = "".join(path.read_text("utf-8") for path in constants)
    for name in set(settings()) - OF_THE_HOST:
        assert f'"{name}"' in (theirs if name.startswith("AZURE_") else ours), name
    assert {"BUSPASS_CONFIG", "BUSPASS_HOST", "BUSPASS_DATA", "AZURE_CLIENT_ID"} <= set(settings())


def test_the_configuration_is_the_one_in_the_package():
    name = re.search(
        r'^NAME.*"(.*)"', (ROOT / "infra/bundle/buspass_bundle/configuration.py").read_text("utf-8"), re.MULTILINE
    )
    assert settings()["BUSPASS_CONFIG"] == f"'/home/site/wwwroot/{name[1]}'"


def test_what_is_secret_is_a_reference_and_no_value():
    assert "'@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${each.secret})'" in MODULES["app"]
    assert "keyVaultReferenceIdentity: identity.id" in MODULES["app"]
    assert re.findall(r"listKeys|listSecrets|@secure|connectionString:|AccountKey", WHOLE) == []


def test_what_is_put_out_are_urls_that_buspass_yaml_takes():
    endpoint, name, version = keyvault._parse(output("signer"))
    assert (len(endpoint) <= len("https://.vault.azure.net") + 24, name, version) == (True, "buspass", "")
    address = cosmos_account.parse(output("state"))
    assert (address.database, address.container, address.key) == ("buspass", "buspass", None)
    account, container = re.fullmatch(r"azblob://(.*)/(.*)", output("blobs")).groups()
    assert blobs._ACCOUNT.fullmatch(account)
    assert blobs._CONTAINER.fullmatch(container)


def test_the_app_runs_on_the_python_of_the_bundles():
    assert re.search(r"runtime: \{\n +name: 'python'\n +version: '3.13'", MODULES["app"])


# ── who may do what ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_role_is_the_documented_one_and_named():
    named = re.findall(r"@description\('([^':]+).*'\)\nvar \w+ = '([0-9a-f-]{36})'", WHOLE)
    assert dict(named) == ROLES
    assert set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", WHOLE)) == set(ROLES.values())


def test_no_role_reaches_further_than_its_own_resource():
    assigned = re.findall(r"roleAssignments@[\d-]+' = .*?^(?:\}|\}\])$", WHOLE, re.MULTILINE | re.DOTALL)
    scopes = [re.search(r"^  scope: (\S+)$", each, re.MULTILINE)[1] for each in assigned]
    assert sorted(scopes) == ["container", "insights", "key", "secret[index]", "storage", "storage"]
    assert all("principalType: 'ServicePrincipal'" in each for each in assigned)


def documented(language, mark):
    page = (ROOT / "docs" / "stores.md").read_text("utf-8").split("## Cosmos DB")[1]
    return json.loads(next(code for code in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if mark in code))


def test_cosmos_allows_what_the_store_needs_and_nothing_else():
    granted = re.findall(
        r"'Microsoft.DocumentDB/databaseAccounts/((?:readMetadata|sqlDatabases/containers/\S+))'", WHOLE
    )
    assert sorted(granted) == sorted(documented("json", "readMetadata"))
    assert "00000000-0000-0000-0000-00000000000" not in WHOLE


def test_cosmos_is_what_the_store_refuses_to_do_without():
    cosmos = MODULES["cosmos"]
    assert "defaultConsistencyLevel: 'Strong'" in cosmos
    assert "enableMultipleWriteLocations: false" in cosmos
    assert "defaultTtl" not in cosmos
    key = cosmos.split("partitionKey: {")[1].split("}")[0].split()
    assert key == ["kind:", "'Hash'", "version:", "2", "paths:", "[", f"'{cosmos_account.PARTITION_PATH}'", "]"]
    policy = documented("json", "indexingMode")
    paths = {
        kind: re.findall(r"path: '(.*)'", cosmos.split(f"{kind}: [")[1].split("]")[0])
        for kind in policy
        if "Paths" in kind
    }
    assert paths == {kind: [each["path"] for each in policy[kind]] for kind in paths}
    assert len(paths) == 2


def test_no_account_has_a_key_and_nothing_is_public():
    assert MODULES["cosmos"].count("disableLocalAuth: true") == 1
    for name in ("blobs", "app"):
        assert MODULES[name].count("allowSharedKeyAccess: false") == 1
        assert MODULES[name].count("allowBlobPublicAccess: false") == 1
    assert WHOLE.lower().count("disablelocalauth: true") == 3
    assert "enableRbacAuthorization: true" in MODULES["vault"]
    assert MODULES["app"].count("allow: false") == 2  # neither FTP nor the deployment takes a password


def test_every_finding_that_is_left_has_its_reason_beside_it():
    reasons = re.findall(r"checkov:skip=(\w+):?(.*)", WHOLE)
    assert [check for check, reason in reasons if len(reason.strip()) < 8] == []


# ── at a desk ───────────────────────────────────────────────────────────────────────────────────────────────────────


def example():
    return json.loads((ROOT / "azure" / "local.settings.json.example").read_text("utf-8"))


def test_local_settings_hold_no_secret_and_what_a_desk_needs():
    values = example()["Values"]
    assert values["FUNCTIONS_WORKER_RUNTIME"] == "python"
    assert set(values) - {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"} <= set(settings())
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert "local.settings.json" in ignored


def test_the_smallest_configuration_of_azure_says_the_domain_over_again():
    document = yaml.safe_load((AZURE / "buspass.yaml").read_text("utf-8"))
    named = {each["secret"] for each in (document["domain_key"], document["providers"]["openai"]["auth"]["bearer"])}
    for path in PARAMETERS:
        secrets = json.loads(path.read_text("utf-8"))["parameters"]["secrets"]["value"]
        assert {each["setting"] for each in secrets} == named, path.name


@pytest.mark.verify
def test_the_folder_of_the_app_starts_with_its_local_settings(tmp_path):
    """As `func start` does in azure/: the host's own runtime library indexes the app, with these values around it."""
    values = example()["Values"] | {
        "BUSPASS_CONFIG": str(tmp_path / "buspass.yaml"),
        "BUSPASS_DATA": str(tmp_path / "d"),
    }
    minimal = "version: 1\nworkflows:\n  my-agent:\n    models: [openai/gpt-5-mini]\n    budget: {cost: 0.50}\n"
    (tmp_path / "buspass.yaml").write_text(minimal)
    code = (
        "import asyncio, pathlib, sys\n"
        "from buspass_azure.local_host import FunctionsHost\n"
        "async def main():\n"
        "    host = FunctionsHost(pathlib.Path(sys.argv[1]))\n"
        "    await host.start()\n"
        "    await host.close()\n"
        "    print(len(host._functions))\n"
        "asyncio.run(main())\n"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **values}
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "azure"], env=environ, text=True, capture_output=True, timeout=600
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
