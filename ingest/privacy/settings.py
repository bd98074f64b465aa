"""User settings of privacy: ``privacy.toml`` in the lake."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest.errors import UserError

FILE = "privacy.toml"
Detector = Literal["secret", "email", "phone", "card", "iban", "ip", "national_id"]
FieldKind = Literal["name", "email", "phone", "address", "date", "secret"]

FIELDS: dict[str, FieldKind] = {
    **dict.fromkeys(
        ("first_name", "last_name", "full_name", "given_name", "family_name", "middle_name", "surname",
         "customer_name", "contact_name", "recipient_name", "passenger_name", "patient_name", "holder_name",
         "account_holder", "cardholder", "cardholder_name"), "name"),
    **dict.fromkeys(("email", "e_mail", "mail", "email_address", "customer_email", "contact_email"), "email"),
    **dict.fromkeys(("phone", "phone_number", "telephone", "mobile", "mobile_number", "cell", "fax", "msisdn"),
                    "phone"),
    **dict.fromkeys(("address", "address1", "address2", "address_line1", "address_line2", "line1", "line2",
                     "street", "street1", "street2", "street_address", "shipping_address", "billing_address"),
                    "address"),
    **dict.fromkeys(("dob", "date_of_birth", "birth_date", "birthdate", "birthday"), "date"),
    **dict.fromkeys(("password", "passwd", "pwd", "passcode", "passphrase", "new_password", "old_password",
                     "current_password", "confirm_password", "password_confirmation", "user_password", "cvv", "cvc",
                     "pin", "security_code", "otp", "api_key", "access_token",
                     "refresh_token", "auth_token", "client_secret", "secret_key", "private_key"), "secret"),
}  # fmt: skip
PERSONS = ("customer", "user", "passenger", "passengers", "patient", "contact", "recipient", "guest", "guests",
           "employee", "member", "client", "person", "owner", "traveler", "travellers", "saved_passengers")  # fmt: skip
# Domains that RFC 2606 and 6761 reserve: whoever has an address there is nobody.
ALLOW = ("*@example.com", "*@example.org", "*@example.net", "*@*.example.com", "*.example", "*.test", "*.invalid")


class PrivacySettings(BaseModel):
    """How personal data and secrets are treated before anything is learned. The defaults are the safe ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="Whether anything is replaced.")
    detectors: tuple[Detector, ...] = Field(
        ("secret", "email", "phone", "card", "iban", "ip", "national_id"),
        description="What is looked for in every text.",
    )
    fields: Mapping[str, FieldKind] = Field(
        FIELDS,
        description="JSON keys whose values are personal, and what they are. Such a value is replaced wherever "
        "else it occurs in its conversation. Keys compare without case, hyphens and underscores.",
    )
    persons: tuple[str, ...] = Field(
        PERSONS,
        description='Keys of objects that are people: a bare "name" in such an object, or in one that has an '
        'e-mail, a phone number, an address or a birthday, is a person\'s. Elsewhere "name" is left alone.',
    )
    allow: tuple[str, ...] = Field(
        ALLOW, description="Values that are left as they are: patterns with * and ?, without regard to case."
    )
    raw: Literal["keep", "encrypt", "drop"] = Field(
        "keep",
        description="What becomes of the raw tables and of the journal's sealed segments once tables are made.",
    )


def load(lake: Path) -> PrivacySettings:
    """Return the settings of a lake, or the defaults if it has no file. Raises UserError for an invalid setting."""
    path = lake / FILE
    try:
        given = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return PrivacySettings()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    try:
        return PrivacySettings(**given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path}: {wrong}; docs/privacy.md lists what can be set") from None
