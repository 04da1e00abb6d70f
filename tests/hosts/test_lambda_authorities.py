"""By whose certificates a function judges the servers that it calls."""

import pytest

from buspass_aws import authorities


@pytest.fixture
def bundles(tmp_path):
    """The places where a system may have its bundle; it has the second."""
    found = tmp_path / "ca-certificates.crt"
    found.write_text("authorities")
    return [str(tmp_path / "ca-bundle.crt"), str(found)]


def test_the_bundle_that_the_system_has_is_named(bundles):
    environ = {"PATH": "/bin"}
    authorities.choose(environ, bundles)
    assert environ == {"PATH": "/bin", "SSL_CERT_FILE": bundles[1]}


@pytest.mark.parametrize("name", authorities.NAMES)
def test_what_the_environment_names_stays(bundles, name):
    environ = {name: "/own"}
    authorities.choose(environ, bundles)
    assert environ == {name: "/own"}


def test_an_empty_name_names_nothing(bundles):
    environ = {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}
    authorities.choose(environ, bundles)
    assert environ["SSL_CERT_FILE"] == bundles[1]


def test_where_there_is_no_bundle_the_client_searches_for_itself(bundles):
    environ = {}
    authorities.choose(environ, bundles[:1])
    assert environ == {}
