//! `/admin/prices`: what models cost. Rows are added and never changed.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use crate::billing::Billing;
use crate::billing::money::Nanos;
use crate::billing::price::Price;
use crate::clock::{self, EpochMs};
use crate::error::{Error, Invalid};
use crate::http::access::Operator;
use crate::http::body::{self, Given};
use crate::http::error::ApiError;
use crate::http::whole::whole;
use crate::id::PriceId;
use crate::store::audit_log;
use crate::store::{self, Store};
use crate::wire::native::objects::{self, PriceList, SetPrices};

type Answer = Result<HttpResponse, ApiError>;

/// The longest name of a model, in bytes.
const MAX_NAME: usize = 256;
/// The most prices of one call.
const MAX_PRICES: usize = 1_000;
/// How far a clock may be ahead of ours when it says "now".
const NOW_MS: EpochMs = 60_000;

/// `POST /admin/prices`: one price, or `{"prices": […]}`, all of them or none.
pub async fn set(
    request: HttpRequest,
    operator: Operator,
    payload: web::Payload,
    (store, billing): (web::Data<Store>, web::Data<Billing>),
) -> Answer {
    let mut given = body::read_object(&request, payload).await?;
    let now = clock::now_ms();
    let (prices, many) = match given.take("prices") {
        None => (vec![read(given, now)?], false),
        Some(list) => {
            given.finish()?;
            (read_list(list, now)?, true)
        }
    };
    let mut set: Vec<_> = prices.iter().map(objects::Price::from).collect();
    whole(async move {
        let (new, by) = (prices.clone(), operator.by());
        let insert = move |conn: &mut _| {
            for (at, price) in new.iter().enumerate() {
                if !store::price::insert(conn, price)? {
                    return Err(taken(price, many.then_some(at)).into());
                }
                audit_log::record(conn, &by, &price.deed())?;
            }
            Ok(())
        };
        store.write(insert).await?;
        prices.into_iter().for_each(|price| billing.prices().add(price));
        Ok(())
    })
    .await?;
    let answer = match set.pop() {
        Some(price) if !many => SetPrices::One(price),
        last => SetPrices::Many(PriceList { prices: set.into_iter().chain(last).collect() }),
    };
    Ok(HttpResponse::Created().json(answer))
}

/// The model has a price from that moment on already; `at` is the place in a list.
fn taken(price: &Price, at: Option<usize>) -> Error {
    let field = "effective_from";
    let path = at.map_or(field.to_owned(), |at| format!("prices[{at}].{field}"));
    Invalid::value(path, format_args!("{} has a price from that moment on", price.model)).into()
}

fn read_list(list: Value, now: EpochMs) -> Result<Vec<Price>, Invalid> {
    let Value::Array(items) = list else {
        return Err(Invalid::value("prices", "expected a list of prices"));
    };
    if items.is_empty() || items.len() > MAX_PRICES {
        return Err(Invalid::value("prices", format_args!("expected 1 to {MAX_PRICES} prices")));
    }
    let one = |(at, item): (usize, Value)| {
        if !item.is_object() {
            return Err(Invalid::value(format!("prices[{at}]"), "expected an object"));
        }
        read(item.into(), now).map_err(|mut invalid| {
            invalid.param = invalid.param.map(|field| format!("prices[{at}].{field}"));
            invalid.message = format!("prices[{at}]: {}", invalid.message);
            invalid
        })
    };
    items.into_iter().enumerate().map(one).collect()
}

fn read(mut given: Given, now: EpochMs) -> Result<Price, Invalid> {
    let model = given.required("model", MAX_NAME)?;
    let mut money = |name: &str| match given.money(name)? {
        Some(amount) if amount < Nanos::ZERO => Err(Invalid::value(name, "expected nothing or more")),
        amount => Ok(amount),
    };
    let input = money("input")?.ok_or_else(|| Invalid::missing("input"))?;
    let output = money("output")?.ok_or_else(|| Invalid::missing("output"))?;
    let cached_input = money("cached_input")?.unwrap_or(input);
    let per_request = money("per_request")?.unwrap_or(Nanos::ZERO);
    let effective_from = given.time("effective_from")?;
    if effective_from.is_some_and(|from| from < now - NOW_MS) {
        return Err(Invalid::value("effective_from", "a price cannot begin in the past"));
    }
    given.finish()?;
    Ok(Price {
        id: PriceId::random(),
        model,
        effective_from: effective_from.unwrap_or(now),
        input,
        cached_input,
        output,
        per_request,
    })
}

/// `GET /admin/prices`.
pub async fn list(_: Operator, billing: web::Data<Billing>) -> Answer {
    let prices = billing.prices().all().iter().map(|price| objects::Price::from(&**price)).collect();
    Ok(HttpResponse::Ok().json(PriceList { prices }))
}
