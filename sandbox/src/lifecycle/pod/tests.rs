//! Every state with every event, and a model host crashed at every step.

use std::collections::BTreeSet;

use super::*;

const SHIM: ProcessIdentity = ProcessIdentity { pid: 7, start_ticks: 70 };

fn plans() -> Vec<Vec<Claim>> {
    // Every subset: a host-network pod claims neither namespace nor attachment.
    (0..1_usize << Claim::ALL.len())
        .map(|bits| {
            let chosen = Claim::ALL.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
            chosen.map(|(_, claim)| *claim).collect()
        })
        .collect()
}

fn states() -> Vec<PodState> {
    let causes = [StopCause::Requested, StopCause::PrepareFailed, StopCause::ShimLost];
    let mut states = vec![PodState::Removing];
    for held in plans() {
        states.push(PodState::Preparing { held: held.clone() });
        states.push(PodState::Ready { held: held.clone(), shim: SHIM });
        for cause in causes {
            if !held.is_empty() {
                states.push(PodState::Stopping { held: held.clone(), cause });
            }
            states.push(PodState::Stopped { cause });
        }
    }
    states
}

fn events() -> Vec<PodEvent> {
    let mut events = vec![
        PodEvent::Started(SHIM),
        PodEvent::Stop(StopCause::Requested),
        PodEvent::Stop(StopCause::ShimLost),
        PodEvent::Remove,
    ];
    events.extend(Claim::ALL.map(PodEvent::Released));
    events
}

#[test]
fn a_refusal_hands_the_state_back_untouched() {
    for state in states() {
        for event in events() {
            if let Err(refused) = state.clone().step(event) {
                assert_eq!((refused.state, refused.event), (state.clone(), event));
            }
        }
    }
}

#[test]
fn from_every_state_stop_and_releases_reach_stopped() {
    for state in states() {
        let mut state = state.step(PodEvent::Stop(StopCause::Requested)).unwrap();
        let mut releases = Vec::new();
        while let Some(claim) = state.next_release() {
            releases.push(claim);
            state = state.step(PodEvent::Released(claim)).unwrap();
        }
        assert!(releases.is_sorted_by(|a, b| a > b), "last taken, first released: {releases:?}");
        assert!(matches!(state, PodState::Stopped { .. } | PodState::Removing));
        assert_eq!(state.step(PodEvent::Remove).unwrap(), PodState::Removing);
    }
}

#[test]
fn what_is_held_is_never_forgotten() {
    for state in states() {
        let held = |state: &PodState| match state {
            PodState::Preparing { held }
            | PodState::Ready { held, .. }
            | PodState::Stopping { held, .. } => held.len(),
            PodState::Stopped { .. } | PodState::Removing => 0,
        };
        for event in events() {
            let before = held(&state);
            if let Ok(after) = state.clone().step(event) {
                let released = usize::from(matches!(event, PodEvent::Released(_)));
                assert_eq!(held(&after) + released, before, "{state:?} {event:?}");
            }
        }
    }
}

/// A host and a disk, and a driver that can be stopped after any effect.
#[derive(Clone, Default)]
struct World {
    record: Option<PodState>,
    taken: BTreeSet<Claim>,
    steps_left: usize,
}

struct Crash;

impl World {
    fn effect(&mut self) -> Result<(), Crash> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Crash)?;
        // At each instant, whatever is taken is on record.
        let recorded: BTreeSet<Claim> = match &self.record {
            Some(
                PodState::Preparing { held }
                | PodState::Ready { held, .. }
                | PodState::Stopping { held, .. },
            ) => held.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        assert!(self.taken.is_subset(&recorded), "{:?} taken, {recorded:?} on record", self.taken);
        Ok(())
    }

    fn record(&mut self, state: PodState) -> Result<(), Crash> {
        self.record = Some(state);
        self.effect()
    }

    fn run(&mut self) -> Result<(), Crash> {
        let plan = Claim::ALL.to_vec();
        self.record(PodState::preparing(plan.clone()))?;
        for claim in plan {
            self.taken.insert(claim);
            self.effect()?;
        }
        let state = self.record.clone().unwrap();
        self.record(state.step(PodEvent::Started(SHIM)).unwrap())
    }

    fn down(&mut self) -> Result<(), Crash> {
        let Some(mut state) = self.record.clone() else { return Ok(()) };
        state = state.step(PodEvent::Stop(StopCause::Requested)).unwrap();
        self.record(state.clone())?;
        while let Some(claim) = state.next_release() {
            self.taken.remove(&claim);
            self.effect()?;
            state = state.step(PodEvent::Released(claim)).unwrap();
        }
        self.record(state.clone())?;
        self.record(state.step(PodEvent::Remove).unwrap())?;
        self.record = None;
        self.effect()
    }
}

#[test]
fn a_crash_at_any_step_and_again_in_recovery_leaves_nothing() {
    const ENOUGH: usize = 64;
    let mut schedules = 0;
    for first in 0..ENOUGH {
        for second in 0..ENOUGH {
            let mut world = World { steps_left: first, ..World::default() };
            let _ = world.run().and_then(|()| world.down());
            world.steps_left = second;
            let _ = world.down();
            world.steps_left = ENOUGH;
            assert!(world.down().is_ok());
            assert!(world.record.is_none() && world.taken.is_empty());
            schedules += 1;
        }
    }
    assert_eq!(schedules, ENOUGH * ENOUGH);
}

#[test]
fn recovery_adopts_only_the_very_shim_of_the_record() {
    let held = Claim::ALL.to_vec();
    let ready = PodState::Ready { held, shim: SHIM };
    let reused = ProcessIdentity { start_ticks: 71, ..SHIM };
    assert_eq!(ready.on_restart(Some(SHIM), Boot::Same), None);
    let lost = Some(PodEvent::Stop(StopCause::ShimLost));
    assert_eq!(ready.on_restart(Some(reused), Boot::Same), lost);
    assert_eq!(ready.on_restart(None, Boot::Same), lost);
    let rebooted = Some(PodEvent::Stop(StopCause::Rebooted));
    assert_eq!(ready.on_restart(Some(SHIM), Boot::Another), rebooted);
}
