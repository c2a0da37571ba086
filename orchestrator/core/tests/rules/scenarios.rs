//! Scripts of what happened, and what an operator then reads. `INSTA_UPDATE=always` writes the golden text anew;
//! read the difference as the operator would.
use crate::support::script::play;

pub const NIGHT: &str = include_str!("scenarios/night.yaml");
const NIGHT_WITH_PAGE_NEED: &str = include_str!("scenarios/night-with-page-need.yaml");
const SEVEN: &str = include_str!("scenarios/seven.yaml");
const SMALL: &str = include_str!("scenarios/small.yaml");
const SMALL_2: &str = include_str!("scenarios/small-2.yaml");

/// Plans that a script may apply.
pub fn plan(name: &str) -> Option<&'static str> {
    match name {
        "small" => Some(SMALL),
        "small-2" => Some(SMALL_2),
        _ => None,
    }
}

macro_rules! scenario {
    ($name:ident, $plan:expr, $script:literal) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), play($plan, include_str!(concat!("scenarios/", $script))));
        }
    };
}

scenario!(night, NIGHT, "night.txt");
scenario!(night_with_page_need, NIGHT_WITH_PAGE_NEED, "night-with-page-need.txt");
scenario!(regressed, SMALL, "regressed.txt");
scenario!(lost_and_back, SMALL, "lost-and-back.txt");
scenario!(orchestrator_restart, SMALL, "orchestrator-restart.txt");
scenario!(plan_change, SMALL, "plan-change.txt");
scenario!(second_instance, SMALL, "second-instance.txt");
scenario!(ledger, SMALL, "ledger.txt");
scenario!(mass_loss, SEVEN, "mass-loss.txt");
