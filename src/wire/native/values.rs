//! Values that many objects of the API share, each with its form on the wire.

use schemars::JsonSchema;
use serde::Serialize;

use crate::billing::money::Nanos;
use crate::clock::{EpochMs, rfc3339};

/// An amount in USD, with nine decimal places.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = r"^-?[0-9]+\.[0-9]{9}$", "examples" = ["4.999975800"]))]
pub struct Usd(String);

impl From<Nanos> for Usd {
    fn from(amount: Nanos) -> Self {
        Self(amount.to_string())
    }
}

impl From<i64> for Usd {
    fn from(nanos: i64) -> Self {
        Nanos(nanos).into()
    }
}

/// A moment in RFC 3339, in UTC.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("format" = "date-time", "examples" = ["2030-01-31T12:00:00.000Z"]))]
pub struct Time(String);

impl From<EpochMs> for Time {
    fn from(at: EpochMs) -> Self {
        Self(rfc3339(at))
    }
}
