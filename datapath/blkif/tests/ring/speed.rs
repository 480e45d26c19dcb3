//! What a pass does not do.

use blkif::{
    Abi,
    mock::{FrontendRequest, Span},
};

use crate::rig::Rig;

#[test]
fn a_pass_allocates_nothing_once_it_has_its_capacities() {
    let mut rig = Rig::new(Abi::X86_64, 0);
    let page = rig.guest().take_pages(40);
    let many: Vec<Span> = (page..page + 32).map(Span::page).collect();
    let requests = [
        FrontendRequest::Write(0, vec![Span::page(page)]),
        FrontendRequest::Read(0, vec![Span::page(page + 1)]),
        FrontendRequest::Write(64, many.clone()),
        FrontendRequest::Read(64, many),
        FrontendRequest::Flush,
    ];
    for _ in 0..3 {
        rig.submit(&requests);
        rig.serve();
        rig.completions();
    }
    rig.submit(&requests);
    let counted = allocation_counter::measure(|| {
        rig.turn();
    });
    assert_eq!(counted.count_total, 0);
    assert_eq!(rig.completions().len(), requests.len());
}
