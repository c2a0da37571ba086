use super::*;

const MINUTE: Millis = 60_000;

fn with_token() -> Records {
    let mut records = Records::default();
    let token = TokenRecord {
        secret_hash: "h".into(),
        project: "p".into(),
        agent: "backend".into(),
        created: 0,
        expires: 15 * MINUTE,
        spent: None,
        misused: 0,
        misused_at: None,
        revoked: false,
    };
    records.add_token(0, "t", token).unwrap();
    records
}

fn certificate(serial: &str, expires: Millis) -> NewCertificate {
    NewCertificate { serial: serial.into(), expires }
}

#[test]
fn a_token_is_for_one_key_until_it_expires() {
    // Uses in order: when, secret, key, and the reason of the refusal.
    let table: [&[(Millis, &str, &str, &str)]; 6] = [
        &[(0, "h", "k1", "")],
        &[(0, "h", "k1", ""), (MINUTE, "h", "k1", ""), (15 * MINUTE - 1, "h", "k1", "")],
        &[(0, "h", "k1", ""), (15 * MINUTE, "h", "k1", "TOKEN_EXPIRED")],
        &[(0, "h", "k1", ""), (1, "h", "k2", "TOKEN_SPENT"), (2, "h", "k1", "")],
        &[(0, "wrong", "k1", "TOKEN_UNKNOWN"), (1, "h", "k2", "")],
        // Told also when it has expired meanwhile: that somebody has it is worth knowing.
        &[(0, "h", "k1", ""), (20 * MINUTE, "h", "k2", "TOKEN_SPENT")],
    ];
    for uses in table {
        let mut records = with_token();
        for (now, secret, key, expected) in uses {
            let used = records.use_token(*now, "t", secret, key);
            let reason = used.as_ref().map_or_else(|end| end.denied.reason, |_| "");
            assert_eq!(reason, *expected, "{uses:?}");
            let misused = used.err().and_then(|end| end.misuse).is_some();
            assert_eq!(misused, *expected == "TOKEN_SPENT", "{uses:?}");
        }
    }
    assert_eq!(with_token().use_token(0, "u", "h", "k").unwrap_err().denied.reason, "TOKEN_UNKNOWN");
    assert_eq!(with_token().use_token(0, "t", "h", "k").unwrap(), Subject::agent("p", "backend").unwrap());
}

#[test]
fn the_standing_of_a_certificate() {
    let subject = Subject::agent("p", "backend").unwrap();
    let mut records = Records::default();
    records.add_certificate(0, &subject, certificate("1", 10)).unwrap();
    records.add_certificate(5, &subject, certificate("2", 15)).unwrap();
    assert_eq!(records.standing(9, &subject, "1", 10), Standing::Counts(10));
    assert_eq!(records.standing(10, &subject, "1", 10), Standing::Expired(10));
    assert_eq!(records.standing(10, &subject, "2", 15), Standing::Counts(15));
    assert_eq!(records.standing(1, &subject, "3", 15), Standing::Unknown);
    let other = Subject::agent("p", "frontend").unwrap();
    assert_eq!(records.standing(1, &other, "1", 10), Standing::Unknown);

    records.revoke(7, &subject);
    assert_eq!(records.standing(8, &subject, "1", 10), Standing::Revoked(7));
    assert_eq!(records.standing(8, &subject, "2", 15), Standing::Revoked(7));
    assert!(!records.is_joined(8, &subject));
    // It may join again; what was revoked stays so.
    records.add_certificate(9, &subject, certificate("4", 19)).unwrap();
    assert_eq!(records.standing(9, &subject, "4", 19), Standing::Counts(19));
    assert!(matches!(records.standing(9, &subject, "2", 15), Standing::Revoked(_)));
    assert!(records.is_joined(9, &subject));
}

#[test]
fn revoking_an_agent_ends_its_tokens_too() {
    let mut records = with_token();
    let subject = Subject::agent("p", "backend").unwrap();
    assert_eq!(records.revoke(1, &subject), 1);
    assert_eq!(records.use_token(2, "t", "h", "k").unwrap_err().denied.reason, "TOKEN_REVOKED");
}

#[test]
fn an_operators_name_is_taken_while_it_counts() {
    let mut records = Records::default();
    let viewer = Subject::operator(Role::Viewer, "ann").unwrap();
    let admin = Subject::operator(Role::Admin, "ann").unwrap();
    records.add_certificate(0, &viewer, certificate("1", 10)).unwrap();
    records.add_certificate(0, &Subject::agent("p", "bob").unwrap(), certificate("2", 10)).unwrap();
    assert_eq!(records.free_operator(1, &admin).unwrap_err().reason, "IDENTITY_EXISTS");
    assert_eq!(records.free_operator(10, &admin), Ok(()));
    assert_eq!(records.free_operator(1, &Subject::operator(Role::Viewer, "bob").unwrap()), Ok(()));
    records.revoke(2, &viewer);
    assert_eq!(records.free_operator(3, &admin), Ok(()));
}

#[test]
fn a_name_that_two_have_is_not_guessed() {
    let mut records = Records::default();
    let operator = Subject::operator(Role::Viewer, "ann").unwrap();
    let agent = Subject::agent("p", "ann").unwrap();
    records.add_certificate(0, &operator, certificate("1", 10)).unwrap();
    assert_eq!(records.find(1, "ann"), Ok(operator));
    records.add_certificate(0, &agent, certificate("2", 10)).unwrap();
    assert_eq!(records.find(1, "ann").unwrap_err().reason, "IDENTITY_AMBIGUOUS");
    assert_eq!(records.find(1, "spiffe://pitwall/agent/p/ann"), Ok(agent));
    assert_eq!(records.find(1, "eve").unwrap_err().reason, "IDENTITY_UNKNOWN");
}

#[test]
fn what_is_kept_is_bounded() {
    let mut records = Records::default();
    let subject = Subject::agent("p", "a").unwrap();
    for n in 0..CERTIFICATES_MAX {
        records.add_certificate(0, &subject, certificate(&n.to_string(), 10)).unwrap();
    }
    let refused = records.add_certificate(1, &subject, certificate("more", 20)).unwrap_err();
    assert_eq!(refused.reason, "CERTIFICATES_EXHAUSTED");
    for n in 0..100 {
        records.add_certificate(10 + n, &subject, certificate("later", 11 + n)).unwrap();
    }
    assert_eq!(records.identities[&subject.to_string()].certificates.len(), ENDED_MAX + 1);
    records.add_certificate(10 + ENDED_KEPT_FOR_MS, &subject, certificate("last", 2 * ENDED_KEPT_FOR_MS)).unwrap();
    assert!(records.identities[&subject.to_string()].certificates.iter().all(|c| c.expires > 10));

    let mut records = with_token();
    let token = records.tokens["t"].clone();
    for n in 1..TOKENS_MAX {
        records.add_token(0, &n.to_string(), token.clone()).unwrap();
    }
    assert_eq!(records.add_token(0, "more", token.clone()).unwrap_err().reason, "TOKENS_EXHAUSTED");
    records.add_token(15 * MINUTE + KEPT_FOR_MS, "more", token).unwrap();
    assert_eq!(records.tokens.len(), 1);
}

/// As it is kept, for a certificate that lapses while a clock is wrong.
#[test]
fn a_clock_that_jumps_ahead_and_back_costs_nobody_a_certificate() {
    let (own, other) = (Subject::agent("p", "a").unwrap(), Subject::agent("p", "b").unwrap());
    let mut records = Records::default();
    records.add_certificate(0, &own, certificate("1", 10 * MINUTE)).unwrap();
    records.add_certificate(0, &other, certificate("2", 10 * MINUTE)).unwrap();
    records.revoke(1, &other);
    // A day ahead, somebody joins.
    records.add_certificate(24 * 60 * MINUTE, &own, certificate("3", 25 * 60 * MINUTE)).unwrap();
    assert_eq!(records.standing(MINUTE, &own, "1", 10 * MINUTE), Standing::Counts(10 * MINUTE));
    assert!(matches!(records.standing(MINUTE, &other, "2", 10 * MINUTE), Standing::Revoked(_)));
    // What was made then has an end, and whoever holds it is not to be lost when the clock is right again.
    let end = 25 * 60 * MINUTE;
    assert_eq!(records.standing(MINUTE, &own, "3", end), Standing::Counts(end));
    assert_eq!(records.standing(end, &own, "3", end), Standing::Expired(end));
}

#[test]
fn tries_with_another_key_are_counted_once_a_minute() {
    let mut records = with_token();
    records.use_token(0, "t", "h", "k1").unwrap();
    for now in (0..3 * MINUTE).step_by(1_000) {
        let before = records.clone();
        let end = records.use_token(now, "t", "h", "k2").unwrap_err();
        assert_eq!(end.misuse.unwrap().counts, now % MINUTE == 0, "{now}");
        assert_eq!(records == before, now % MINUTE != 0, "{now}");
    }
    assert_eq!(records.tokens["t"].misused, 3);
    // A clock that was set back.
    assert!(records.judge_token(-1, "t", "h", "k2").unwrap_err().misuse.unwrap().counts);
}

#[test]
fn a_token_that_nobody_used_yet_can_be_revoked_by_its_agent() {
    let mut records = with_token();
    let subject = records.find(1, "backend").unwrap();
    assert_eq!(subject, Subject::agent("p", "backend").unwrap());
    assert_eq!(records.find(1, &subject.to_string()), Ok(subject.clone()));
    assert_eq!(records.find(15 * MINUTE, "backend").unwrap_err().reason, "IDENTITY_UNKNOWN");
    // One and the same, joined or not.
    records.add_certificate(0, &subject, certificate("1", 10)).unwrap();
    assert_eq!(records.find(1, "backend"), Ok(subject.clone()));
    assert_eq!(records.revoke(1, &subject), 1);
}

#[test]
fn renewals_are_spread_over_a_life() {
    let subject = Subject::agent("p", "a").unwrap();
    let (mut records, life) = (Records::default(), 100 * MINUTE);
    for n in 0..FRESH_MAX {
        assert_eq!(records.may_renew(0, &subject, life), Ok(()));
        records.add_certificate(0, &subject, certificate(&n.to_string(), life)).unwrap();
    }
    assert_eq!(records.may_renew(39 * MINUTE, &subject, life).unwrap_err().reason, "RENEWED_ALREADY");
    // In time for whoever renews at half of it.
    assert_eq!(records.may_renew(40 * MINUTE, &subject, life), Ok(()));
}
