use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rand::SeedableRng;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::{RootCa, Subject};

const HOUR: Duration = Duration::from_secs(3600);
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The wall clock, tied to tokio's paused one.
fn paused_clock() -> Clock {
    let (start, origin) = (SystemTime::now(), Instant::now());
    Clock::new(move || start + origin.elapsed())
}

fn subject(node: &str, role: Role) -> Subject {
    Subject { node: node.into(), role, cluster: "c".into() }
}

#[derive(Clone)]
enum Answer {
    Certificate(Subject),
    Foreign,
    Failure,
}

/// Answers as told, the last answer again and again, and notes when it was asked.
#[derive(Clone)]
struct TestCa {
    ca: RootCa,
    clock: Clock,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<SystemTime>>>,
}

impl Certify for TestCa {
    async fn issue(&self, request: &str) -> Result<String, issuance::Error> {
        self.asked.lock().unwrap().push(self.clock.now());
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let now = self.clock.now();
        match answer.unwrap() {
            Answer::Certificate(subject) => Ok(self.ca.sign(request, &subject, LIFETIME, now).unwrap()),
            Answer::Foreign => {
                let other = RootCa::generate(now).unwrap();
                Ok(other.sign(request, &subject("n", Role::Worker), LIFETIME, now).unwrap())
            }
            Answer::Failure => Err(issuance::Error::NoManager),
        }
    }
}

struct Fixture {
    _root: TempDir,
    dir: CertificateDir,
    ca: TestCa,
    credentials: Credentials,
    trigger: Trigger,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    start: SystemTime,
}

impl Fixture {
    fn start(answers: &[Answer]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = CertificateDir::new(root.path());
        let clock = paused_clock();
        let start = clock.now();
        let authority = RootCa::generate(start).unwrap();
        let identity = authority.issue(&subject("n", Role::Worker), LIFETIME, start).unwrap();
        let credentials = Credentials::new(identity, authority.certificate().clone()).unwrap();
        let ca = TestCa {
            ca: authority,
            clock: clock.clone(),
            answers: Arc::new(Mutex::new(answers.iter().cloned().collect())),
            asked: Arc::default(),
        };
        let (renewal, trigger) =
            Renewal::new(credentials.clone(), dir.clone(), ca.clone(), clock, StdRng::seed_from_u64(7));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(renewal.run(stop.clone()));
        Self { _root: root, dir, ca, credentials, trigger, tasks, stop, start }
    }

    async fn replaced(&self) {
        let mut changes = self.credentials.subscribe();
        tokio::time::timeout(4 * LIFETIME, changes.changed()).await.expect("a new certificate").unwrap();
    }

    async fn asked(&self, times: usize) {
        while self.ca.asked.lock().unwrap().len() < times {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn role(&self) -> Role {
        self.credentials.current().identity().subject().role
    }

    fn asked_after(&self) -> Vec<Duration> {
        let asked = self.ca.asked.lock().unwrap();
        asked.iter().map(|at| at.duration_since(self.start).unwrap()).collect()
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn renews_again_and_again_between_half_and_four_fifths_of_the_lifetime() {
    let fixture = Fixture::start(&[Answer::Certificate(subject("n", Role::Worker))]);
    let first = fixture.credentials.current();
    fixture.replaced().await;
    fixture.replaced().await;
    let asked = fixture.asked_after();
    // A certificate starts an hour before it is issued.
    let window = (LIFETIME + HOUR).mul_f64(0.5) - HOUR..=(LIFETIME + HOUR).mul_f64(0.8) - HOUR;
    assert!(window.contains(&asked[0]), "{asked:?}");
    assert!(window.contains(&(asked[1] - asked[0])), "{asked:?}");

    let current = fixture.credentials.current();
    assert_ne!(current.identity(), first.identity());
    let (stored, _) = fixture.dir.load().unwrap().unwrap();
    assert_eq!(stored, *current.identity());
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_does_not_wait() {
    let fixture = Fixture::start(&[Answer::Certificate(subject("n", Role::Worker))]);
    fixture.trigger.renew_now();
    fixture.replaced().await;
    assert!(fixture.asked_after()[0] < Duration::from_secs(1));
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_role_is_asked_for_until_it_is_granted() {
    let worker = Answer::Certificate(subject("n", Role::Worker));
    let manager = Answer::Certificate(subject("n", Role::Manager));
    let fixture = Fixture::start(&[worker.clone(), Answer::Failure, worker, manager]);
    fixture.trigger.expect(Role::Manager);
    while fixture.role() != Role::Manager {
        fixture.replaced().await;
    }
    let asked = fixture.asked_after();
    assert_eq!(asked.len(), 4);
    assert!(asked[3] < Duration::from_secs(10), "{asked:?}");
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_role_it_has_is_no_reason_to_renew() {
    let fixture = Fixture::start(&[Answer::Certificate(subject("n", Role::Worker))]);
    fixture.trigger.expect(Role::Worker);
    fixture.replaced().await;
    assert!(fixture.asked_after()[0] > 10 * HOUR);
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn bad_certificates_never_replace_a_good_one() {
    let other = Answer::Certificate(subject("other", Role::Worker));
    let fixture = Fixture::start(&[Answer::Foreign, other, Answer::Failure]);
    let before = fixture.credentials.current();
    fixture.trigger.renew_now();
    fixture.asked(6).await;
    assert!(Arc::ptr_eq(&before, &fixture.credentials.current()));
    assert!(fixture.dir.load().unwrap().is_none());

    let asked = fixture.asked_after();
    let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (failures, pause) in pauses.iter().enumerate() {
        let full = Duration::from_secs(1 << failures);
        assert!(*pause >= full / 2 && *pause <= full + Duration::from_millis(100), "{pauses:?}");
    }
    fixture.stop().await;
}

proptest! {
    #[test]
    fn renewal_falls_into_its_window(lifetime_s in 1..1_000_000_000u64, fraction in 0.0..=1.0f64) {
        let not_before = SystemTime::UNIX_EPOCH;
        let lifetime = Duration::from_secs(lifetime_s);
        let at = renewal_time(Validity { not_before, not_after: not_before + lifetime }, fraction);
        let share = at.duration_since(not_before).unwrap().as_secs_f64() / lifetime.as_secs_f64();
        prop_assert!((0.4999..=0.8001).contains(&share));
    }

    #[test]
    fn pauses_stay_bounded(failures: u32, jitter in 0.0..=1.0f64) {
        let pause = retry_pause(failures, jitter);
        prop_assert!(pause >= FIRST_RETRY / 2 && pause <= LONGEST_RETRY);
    }
}
