"""What stands in a query: a parameter that nobody reads is told, at every route; what SDKs send is heeded or harmless."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from buspass.http.app import ROUTES, Endpoint
from buspass.http.queries import QUERIES, query_of
from buspass.testing.house import Agent, Domain

STRICT = [row for row in ROUTES if query_of(row.handler) is not None]
LENIENT = [row for row in ROUTES if query_of(row.handler) is None]
MANY = ["plan", "backed", "once", "quick", "thrice", "locked"]


def route(row: Endpoint) -> str:
    return f"{row.method} {row.path}"


async def asked(domain: Domain, row: Endpoint, query: dict[str, str], method: str = "") -> Any:
    client = await domain.host()
    path = row.path.replace(":path", "").replace("{", "").replace("}", "")
    return await client.request(method or row.method, path, params=query)


async def test_a_parameter_that_nobody_reads_is_refused_by_name_and_those_that_are_read_are_named(
    domain: Domain,
) -> None:
    for row in STRICT:
        answer = await asked(domain, row, {"nobody": "1"})
        told = answer.json()
        detail = told["detail"] if "detail" in told else told["error"]["message"]
        known = ", ".join(query_of(row.handler) or ()) or "none"
        assert answer.status_code == 400, route(row)
        assert f"unknown query parameter 'nobody'; allowed: {known}" in detail, route(row)


async def test_parameters_that_are_read_are_not_refused(domain: Domain) -> None:
    for row in STRICT:
        if query := query_of(row.handler):
            answer = await asked(domain, row, dict.fromkeys(query, "x"))
            assert answer.status_code == 401, f"{route(row)}: that is looked at next"


async def test_what_others_clients_and_probes_add_is_passed_over(domain: Domain) -> None:
    for row in LENIENT:
        assert "unknown query parameter" not in (await asked(domain, row, {"nobody": "1"})).text, route(row)


async def test_head_is_held_to_what_get_is(domain: Domain) -> None:
    row = next(row for row in ROUTES if row.handler == "breakers")
    assert (await asked(domain, row, {"state": "open"}, "HEAD")).status_code == 400
    assert (await asked(domain, row, {}, "HEAD")).status_code == 401


def test_every_row_of_the_table_is_a_routes() -> None:
    assert set(QUERIES) <= {row.handler for row in ROUTES}


async def test_the_description_names_the_parameters_that_are_read(domain: Domain) -> None:
    document = (await (await domain.host()).get("/openapi.json")).json()
    for row in ROUTES:
        operation = document["paths"][row.path.replace(":path", "")][row.method.lower()]
        told = [given["name"] for given in operation.get("parameters", ()) if given["in"] == "query"]
        assert told == list(query_of(row.handler) or ())


# ── the list of models, as SDKs ask for it ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def agent(domain: Domain) -> Agent:
    return await domain.agent(workflow="many")


@pytest.fixture
async def client(domain: Domain, agent: Agent) -> anthropic.AsyncAnthropic:
    transport = httpx2.ASGITransport(app=domain.apps["onprem"])
    http = httpx2.AsyncClient(transport=transport, base_url="http://onprem")
    return anthropic.AsyncAnthropic(base_url=str(http.base_url), api_key=agent.token, max_retries=0, http_client=http)


async def test_anthropics_sdk_lists_all_models_by_whatever_pages(client: anthropic.AsyncAnthropic) -> None:
    assert [model.id async for model in client.models.list()] == MANY
    for limit in (1, 2, 4, 6, 1000):
        assert [model.id async for model in client.models.list(limit=limit)] == MANY
    assert [model.id async for model in client.models.list(after_id="once")] == MANY[3:]
    assert [model.id async for model in client.models.list(before_id="once", limit=1)] == ["backed", "plan"]
    assert [model.id async for model in client.beta.models.list(limit=4)] == MANY


async def test_a_page_says_whether_there_are_more(client: anthropic.AsyncAnthropic) -> None:
    pages = [await client.models.list(limit=limit) for limit in (5, 6)]
    assert [page.has_more for page in pages] == [True, False]
    assert [len(page.data) for page in pages] == [5, 6]


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1001}, {"after_id": "unheard-of"}, {"before_id": ""}], ids=str
)
async def test_a_page_that_is_none_is_told(client: anthropic.AsyncAnthropic, query: dict[str, Any]) -> None:
    with pytest.raises(anthropic.BadRequestError):
        await client.models.list(extra_query=query)


async def test_openais_sdk_lists_all_models_and_azures_edition_is_passed_over(domain: Domain, agent: Agent) -> None:
    http: httpx.AsyncClient = await domain.host()
    for query in ({}, {"api-version": "preview"}):
        client = openai.AsyncOpenAI(
            base_url=f"{http.base_url}/v1", api_key=agent.token, http_client=http, default_query=query, max_retries=0
        )
        assert [model.id async for model in client.models.list()] == MANY
    with pytest.raises(openai.BadRequestError, match="unknown query parameter 'filter'"):
        await client.models.list(extra_query={"filter": "x"})
