//! Every combination of outcome and list.

use super::*;

fn spec(name: &str, outcome: Outcome) -> Spec {
    Spec { name: name.to_owned(), outcome }
}

fn judged(outcome: Outcome, not_yet: &str, skip: &str) -> Verdict {
    let specs = [spec("Pods run", outcome)];
    judge(&specs, &List::read(not_yet).unwrap(), &List::read(skip).unwrap(), |_| {})
}

#[test]
fn only_what_is_listed_may_fail_or_skip() {
    let failed = || Outcome::Failed("x".to_owned());
    let skipped = || Outcome::Skipped("x".to_owned());
    let listed = "Pods run  # later\n";
    let table = [
        (Outcome::Passed, "", "", Verdict::AsExpected),
        (Outcome::Passed, listed, "", Verdict::Unexpected),
        (Outcome::Passed, "", listed, Verdict::AsExpected),
        (failed(), "", "", Verdict::Unexpected),
        (failed(), listed, "", Verdict::AsExpected),
        (failed(), "", listed, Verdict::Unexpected),
        (skipped(), "", "", Verdict::Unexpected),
        (skipped(), listed, "", Verdict::AsExpected),
        (skipped(), "", listed, Verdict::AsExpected),
        (Outcome::LeftOut, listed, "", Verdict::AsExpected),
        (Outcome::Passed, "Nothing of this name  # later", "", Verdict::Unexpected),
    ];
    for (outcome, not_yet, skip, expected) in table {
        assert_eq!(
            judged(outcome.clone(), not_yet, skip),
            expected,
            "{outcome:?}, {not_yet:?}, {skip:?}"
        );
    }
}

#[test]
fn a_line_without_a_reason_is_refused() {
    assert!(List::read("Pods run\n").is_err());
    assert!(List::read("# comment\n\nPods run  # reason\n").is_ok());
}

#[test]
fn the_committed_lists_are_well_formed() {
    List::read(include_str!("../../critest/not-yet.txt")).unwrap();
    List::read(include_str!("../../critest/skip.txt")).unwrap();
}

#[test]
fn a_report_is_read_with_failed_setup_counted() {
    let json = r#"[{"SpecReports": [
        {"ContainerHierarchyTexts": ["[k8s.io] Pods", ""], "LeafNodeType": "It", "LeafNodeText": "run", "State": "passed"},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "It", "LeafNodeText": "b", "State": "skipped"},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "It", "LeafNodeText": "c", "State": "timedout",
         "Failure": {"Message": "too\n late"}},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "failed",
         "Failure": {"Message": "no daemon"}}
    ]}]"#;
    let specs = read_report(json).unwrap();
    assert_eq!(totals(&specs), "1 passed, 2 failed, 1 skipped");
    let named =
        |name: &str| specs.iter().find(|spec| spec.name == name).map(|spec| spec.outcome.clone());
    assert_eq!(named("[k8s.io] Pods run"), Some(Outcome::Passed));
    assert_eq!(named("b"), Some(Outcome::LeftOut));
    assert_eq!(named("c"), Some(Outcome::Failed("too late".to_owned())));
    assert_eq!(named("BeforeSuite"), Some(Outcome::Failed("no daemon".to_owned())));
    assert!(read_report("[]").is_err());
}
