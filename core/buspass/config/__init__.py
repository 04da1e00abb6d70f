"""Configuration: what buspass.yaml may say (`schema`), how it is read (`build`), what it means (`settings`).

Empty on purpose: `settings` is imported by every room and must not bring YAML or pydantic with it.
"""
