use super::*;

fn keeper(dir: &Path) -> Keeper {
    Keeper::open(dir, Lives::default()).unwrap()
}

#[test]
fn the_authority_and_its_records_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = keeper(dir.path());
    let (token, _) = first.create_token("p", "a", Duration::from_secs(60)).unwrap();
    let (_, request) = request::make().unwrap();
    let (subject, signed) = first.enrol(&token, &request).unwrap();
    assert_eq!(subject.to_string(), "spiffe://pitwall/agent/p/a");
    let second = keeper(dir.path());
    assert_eq!(second.authority.fingerprint(), first.authority.fingerprint());
    assert_eq!(second.records(), first.records());
    // The answer was lost: the same key again, and another one.
    let (_, again) = second.enrol(&token, &request).unwrap();
    assert_ne!(again.serial, signed.serial);
    let other = second.enrol(&token, &request::make().unwrap().1).unwrap_err();
    assert_eq!(other.misuse.map(|m| m.agent), Some("a".to_owned()));
    assert!(second.records().tokens.values().all(|t| t.misused == 1));
}

#[test]
fn a_certificate_says_what_its_record_says_and_reads_back() {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    let (_, request) = request::make().unwrap();
    let (subject, signed) = keeper.create_operator("ann", Role::Viewer, &request, Duration::from_secs(60)).unwrap();
    let der = CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap();
    let seen = certificate::client(&der).unwrap();
    assert_eq!((seen.subject.clone(), &seen.serial, seen.expires), (subject, &signed.serial, signed.expires));
    assert_eq!(keeper.check(&seen), Ok(signed.expires));
    keeper.revoke("ann").unwrap();
    assert_eq!(keeper.check(&seen).unwrap_err().reason, "CERTIFICATE_REVOKED");
    assert!(certificate::client(keeper.authority.der()).is_err());
}

#[test]
fn the_local_operators_credential_is_kept_while_it_counts() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let first = keeper(dir.path());
    let at = first.local_operator().unwrap();
    let held = Credentials::load(&at).unwrap();
    assert_eq!(first.local_operator().unwrap(), at);
    assert_eq!(Credentials::load(&at).unwrap(), held);
    first.revoke("local").unwrap();
    first.local_operator().unwrap();
    assert_ne!(Credentials::load(&at).unwrap(), held);
    for key in [at.join("key.pem"), dir.path().join("identity/authority.key"), dir.path().join("identity/records.json")]
    {
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o077, 0, "{}", key.display());
    }
}

#[test]
fn an_authority_that_lost_a_part_is_told_and_not_replaced() {
    for (gone, kept) in [("authority.key", "authority.pem"), ("authority.pem", "authority.key")] {
        let dir = tempfile::tempdir().unwrap();
        keeper(dir.path()).local_operator().unwrap();
        let kept = dir.path().join("identity").join(kept);
        let before = std::fs::read(&kept).unwrap();
        std::fs::remove_file(dir.path().join("identity").join(gone)).unwrap();
        let error = Keeper::open(dir.path(), Lives::default()).unwrap_err();
        assert!(error.to_string().contains(gone), "{error}");
        assert_eq!(std::fs::read(&kept).unwrap(), before);
        std::fs::remove_file(kept).unwrap();
        let error = Keeper::open(dir.path(), Lives::default()).unwrap_err();
        assert!(error.to_string().contains("authority.pem"), "{error}");
    }
    // Made halfway, nothing was given out.
    let dir = tempfile::tempdir().unwrap();
    drop(keeper(dir.path()));
    std::fs::remove_file(dir.path().join("identity/authority.pem")).unwrap();
    keeper(dir.path());
}

fn seen(signed: &Signed) -> Seen {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    certificate::client(&CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap()).unwrap()
}

#[test]
fn a_revoked_certificate_renews_nothing_though_its_identity_has_joined_again() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    let join = || {
        let (token, _) = keeper.create_token("p", "a", Duration::from_secs(60)).unwrap();
        seen(&keeper.enrol(&token, &request::make().unwrap().1).unwrap().1)
    };
    let request = request::make().unwrap().1;
    let first = join();
    let renewed = seen(&keeper.renew(std::slice::from_ref(&first), &request).unwrap());
    keeper.revoke("a").unwrap();
    let second = join();
    for held in [&[first.clone()][..], &[renewed, first]] {
        let IdentityError::Denied(denied) = keeper.renew(held, &request).unwrap_err() else { panic!() };
        assert_eq!(denied.reason, "CERTIFICATE_REVOKED");
    }
    keeper.renew(&[second], &request).unwrap();
    let IdentityError::Denied(denied) = keeper.renew(&[], &request).unwrap_err() else { panic!() };
    assert_eq!(denied.reason, "CERTIFICATE_MISSING");
}

#[test]
fn a_clock_that_is_set_back_takes_nobodys_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    let (_, request) = request::make().unwrap();
    let (_, signed) = keeper.create_operator("ann", Role::Viewer, &request, Duration::from_secs(86_400)).unwrap();
    let seen = seen(&signed);
    for now in [now(), now() - 3_600_000, 0] {
        assert_eq!(judge(&keeper.records(), now, &seen).unwrap(), seen.expires);
    }
    assert_eq!(judge(&keeper.records(), seen.expires, &seen).unwrap_err().reason, "CERTIFICATE_EXPIRED");
}

#[test]
fn tokens_that_nobody_knows_touch_neither_the_lock_nor_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    let (token, _) = keeper.create_token("p", "a", Duration::from_secs(60)).unwrap();
    keeper.enrol(&token, &request::make().unwrap().1).unwrap();
    let (_, other) = request::make().unwrap();
    assert!(keeper.enrol(&token, &other).unwrap_err().misuse.unwrap().counts);
    let unknown = JoinToken { id: authority::random().unwrap(), ..token.clone() };
    let before = keeper.records();
    // Would wait for ever otherwise.
    let _held = keeper.changing.lock().unwrap();
    for _ in 0..3 {
        assert!(keeper.enrol(&unknown, &other).unwrap_err().misuse.is_none());
        assert!(!keeper.enrol(&token, &other).unwrap_err().misuse.unwrap().counts);
    }
    assert!(Arc::ptr_eq(&before, &keeper.records()));
}

#[test]
fn a_revocation_holds_though_it_cannot_be_written_and_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let first = keeper(dir.path());
    let (_, request) = request::make().unwrap();
    let (_, signed) = first.create_operator("ann", Role::Viewer, &request, Duration::from_secs(60)).unwrap();
    let in_the_way = dir.path().join("identity/.records.json.new/x");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let error = first.revoke("ann").unwrap_err();
    assert!(matches!(error, IdentityError::NotDurable { .. }), "{error}");
    assert_eq!(first.check(&seen(&signed)).unwrap_err().reason, "CERTIFICATE_REVOKED");
    assert!(first.is_owing() && first.settle().is_err());
    // Anything else that cannot be written did not happen.
    assert!(first.create_token("p", "a", Duration::from_secs(60)).is_err());
    assert!(first.records().tokens.is_empty());
    std::fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
    first.settle().unwrap();
    assert!(!first.is_owing());
    assert_eq!(keeper(dir.path()).check(&seen(&signed)).unwrap_err().reason, "CERTIFICATE_REVOKED");
}

#[test]
fn who_renews_all_the_time_is_told_to_use_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    let (token, _) = keeper.create_token("p", "a", Duration::from_secs(60)).unwrap();
    let request = request::make().unwrap().1;
    let held = [seen(&keeper.enrol(&token, &request).unwrap().1)];
    let renewed = (0..20).filter(|_| keeper.renew(&held, &request).is_ok()).count();
    // An answer may be lost, more than one is not.
    assert!((2..=4).contains(&renewed), "{renewed}");
    let IdentityError::Denied(denied) = keeper.renew(&held, &request).unwrap_err() else { panic!() };
    assert_eq!(denied.reason, "RENEWED_ALREADY");
}
