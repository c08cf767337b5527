//! The money check: what was asked of the provider, what was charged, and what clients got, to the nano-dollar.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::time::sleep;

use crate::mock::PROMPT_TOKENS;
use crate::report::Report;
use crate::site::{Account, BALANCE, PRICE, Site};

/// How long the last charges may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Rows of the ledger that are asked for at once.
const PAGE: usize = 100;

/// What accounts were charged.
#[derive(Default)]
struct Charged {
    requests: u64,
    cost: i64,
    paid: i64,
}

/// Checks all that was charged on a site, and notes what does not hold. `failed` requests got no whole answer, so that
/// what they cost cannot be told in advance; then charges may be fewer than calls, but never more.
pub async fn check(site: &Site, place: &str, failed: u64, report: &mut Report) -> Result<()> {
    let mut charged = Charged::default();
    for account in &site.accounts {
        settled(site, account, &mut charged).await.with_context(|| format!("the books of {place}"))?;
    }
    let calls = site.mock.calls().await?;
    let answered = site.answered.load(Relaxed);
    let expected =
        i64::try_from((calls.whole * PROMPT_TOKENS * PRICE.0 + calls.output_tokens * PRICE.1) * 1_000)?;
    let Charged { requests, cost, paid } = charged;
    if failed == 0 {
        report.check(
            place,
            "calls that reached the provider = charges",
            calls.asked == requests,
            &format!("{} and {requests}", calls.asked),
        );
        report.check(
            place,
            "whole answers at clients = charges",
            answered == requests,
            &format!("{answered} and {requests}"),
        );
        report.check(
            place,
            "charges = the provider's tokens x price",
            cost == expected,
            &format!("{} and {}", usd(cost), usd(expected)),
        );
    } else {
        let text =
            format!("{} calls, {requests} charges, {failed} requests without a whole answer", calls.asked);
        report.check(
            place,
            "no more charges than calls, no fewer than whole answers",
            (answered..=calls.asked).contains(&requests),
            &text,
        );
    }
    report.check(
        place,
        "balances fell by exactly the charges",
        paid == cost,
        &format!("{} and {}", usd(paid), usd(cost)),
    );
    let verdict = site.verify().await;
    let (clean, text) = match verdict {
        Ok(text) => (true, text.lines().last().unwrap_or_default().to_owned()),
        Err(error) => (false, format!("{error:#}")),
    };
    report.check(place, "switchboard ledger verify", clean, &text);
    Ok(())
}

/// Checks that each of these completions stands once, and nothing else, among the charges of an account.
pub async fn once_each(
    site: &Site,
    account: &Account,
    completions: &[String],
    place: &str,
    report: &mut Report,
) -> Result<()> {
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut after = String::new();
    // One page more than there can be, so that charges too many are found as well.
    for _ in 0..completions.len() / PAGE + 3 {
        let path = format!("/v2/billing/transactions?limit={PAGE}{after}");
        let page = site.manage(&account.key, "GET", &path, None).await?;
        let rows = page["transactions"].as_array().context("a list of transactions")?;
        for row in rows.iter().filter(|row| row["kind"] == "charge") {
            *seen.entry(row["completion_id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        match rows.last() {
            Some(last) if page["has_more"] == true => after = format!("&after={}", last["seq"]),
            _ => break,
        }
    }
    let once = completions.iter().filter(|id| seen.get(*id) == Some(&1)).count();
    let holds = once == completions.len() && seen.len() == once;
    let text = format!(
        "{} streams, {once} of them charged once, {} completions charged",
        completions.len(),
        seen.len()
    );
    report.check(place, "every stream charged once", holds, &text);
    Ok(())
}

async fn settled(site: &Site, account: &Account, charged: &mut Charged) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let balance = loop {
        let balance = site.manage(&account.key, "GET", "/v2/billing/balance", None).await?;
        if nanos(&balance["held"])? == 0 {
            break nanos(&balance["available"])?;
        }
        if Instant::now() > deadline {
            bail!("{} is still held after {} s", balance["held"], SETTLE_LIMIT.as_secs());
        }
        sleep(Duration::from_millis(50)).await;
    };
    let path = format!("/v2/billing/transactions?limit={PAGE}");
    let usage = site.manage(&account.key, "GET", "/v2/usage?group_by=agent", None).await?;
    for row in usage["usage"].as_array().context("a list of usage")? {
        charged.requests +=
            row["requests"].as_u64().with_context(|| format!("requests is missing in {row}"))?;
        charged.cost += nanos(&row["cost"])?;
    }
    // The newest row tells the balance that the ledger itself has.
    let page = site.manage(&account.key, "GET", &path, None).await?;
    if let Some(newest) = page["transactions"].get(0) {
        let told = nanos(&newest["balance_after"])?;
        ensure!(told == balance, "the balance is {balance} and the ledger's newest row says {told}");
    }
    charged.paid += nanos(&BALANCE.into())? - balance;
    Ok(())
}

/// A decimal string of USD in nano-dollars.
fn nanos(value: &Value) -> Result<i64> {
    let text = value.as_str().with_context(|| format!("{value} is not an amount"))?;
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    ensure!(fraction.len() <= 9, "{text} has more than nine places");
    let number = |digits: &str| digits.parse::<i64>().with_context(|| format!("{text} is not an amount"));
    Ok(sign * (number(whole)? * 1_000_000_000 + number(&format!("{fraction:0<9}"))?))
}

fn usd(nanos: i64) -> String {
    let (sign, size) = if nanos < 0 { ("-", nanos.unsigned_abs()) } else { ("", nanos.unsigned_abs()) };
    format!("{sign}{}.{:09} USD", size / 1_000_000_000, size % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{nanos, usd};

    #[test]
    fn amounts_are_read_and_written_to_the_last_place() {
        for (text, amount) in
            [("0.000000001", 1), ("1000000.00", 1_000_000_000_000_000), ("-1.5", -1_500_000_000)]
        {
            assert_eq!(nanos(&json!(text)).expect("an amount"), amount);
        }
        assert!(nanos(&json!(1.5)).is_err() && nanos(&json!("1.0000000001")).is_err());
        assert_eq!([usd(1), usd(-1_500_000_000)], ["0.000000001 USD", "-1.500000000 USD"]);
    }
}
