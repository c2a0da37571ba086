//! What every benchmark prints: one object on standard output for scripts, and lines for people on standard error.
use serde_json::{Map, Value, json};

/// One comparison; of what was not measured there is a reason instead.
#[derive(Clone, Debug)]
pub struct Row {
    /// Of the table of goals: P1, P2, P3.
    pub row: &'static str,
    pub what: String,
    pub unit: &'static str,
    pub product: Option<f64>,
    /// What the unavoidable work alone takes.
    pub limit: Option<f64>,
    /// At most: so many times the limit, or so much in its own unit where there is no limit.
    pub goal: f64,
    pub n: usize,
    pub why: Option<String>,
    /// More that belongs to it, as peers.
    pub more: Map<String, Value>,
}

impl Row {
    pub fn ratio(&self) -> Option<f64> {
        Some(self.product? / self.limit.filter(|limit| *limit > 0.0)?)
    }

    /// `None`: not measured.
    pub fn met(&self) -> Option<bool> {
        if self.why.is_some() {
            return None;
        }
        match self.limit {
            Some(_) => Some(self.ratio()? <= self.goal),
            None => Some(self.product? <= self.goal),
        }
    }

    pub fn json(&self) -> Value {
        let mut all = json!({
            "row": self.row, "what": self.what, "product": self.product.map(rounded), "limit": self.limit.map(rounded),
            "ratio": self.ratio().map(rounded), "unit": self.unit, "goal": self.goal, "met": self.met(), "n": self.n,
        });
        if let Value::Object(map) = &mut all {
            if let Some(why) = &self.why {
                map.insert("why".into(), json!(why));
            } else if self.met().is_none() {
                map.insert("why".into(), json!("the limit was not measured"));
            }
            map.extend(self.more.clone());
        }
        all
    }

    pub fn line(&self) -> String {
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not measured",
        };
        let mut line = format!(
            "{:<3} {}: {} {}, limit {}, ratio {} (goal {}): {met}",
            self.row,
            self.what,
            number(self.product),
            self.unit,
            number(self.limit),
            number(self.ratio()),
            self.goal,
        );
        if let Some(why) = &self.why {
            line.push_str(&format!("; {why}"));
        }
        line
    }
}

/// Four digits are more than any of these measurements has.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(product: Option<f64>, limit: Option<f64>, why: Option<&str>) -> Row {
        let why = why.map(str::to_owned);
        Row { row: "P1", what: "a".into(), unit: "ms", product, limit, goal: 1.5, n: 3, why, more: Map::new() }
    }

    #[test]
    fn a_goal_is_a_ratio_where_there_is_a_limit_and_nothing_is_met_that_was_not_measured() {
        for (product, limit, why, met) in [
            (Some(1.4), Some(1.0), None, Some(true)),
            (Some(1.6), Some(1.0), None, Some(false)),
            (Some(1.6), None, None, Some(false)),
            (Some(1.4), None, None, Some(true)),
            (None, Some(1.0), None, None),
            (Some(1.4), Some(0.0), None, None),
            (Some(1.4), Some(1.0), Some("too short"), None),
        ] {
            let row = row(product, limit, why);
            assert_eq!(row.met(), met, "{row:?}");
            assert_eq!(row.json()["why"].is_string(), met.is_none(), "{row:?}");
        }
        assert_eq!((rounded(1.23456), rounded(0.0), rounded(123_456.0)), (1.235, 0.0, 123_500.0));
    }
}
