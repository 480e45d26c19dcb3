//! Modules that lie side by side do not use each other in circles: each can be read, tested and
//! replaced without the other.
//!
//! A module may use what the module that it lies in defines, and the other way round: together they
//! do one job.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    files,
    modules::{Modules, Place},
    root,
};

/// Which module uses which others beside it, each with one path by which it does.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn modules_side_by_side_do_not_use_each_other_in_circles() {
    let mut wrong = Vec::new();
    for manifest in files(&root(), "Cargo.toml") {
        let source = manifest.with_file_name("src");
        if source.exists() {
            let crate_name = manifest.parent().and_then(|it| it.strip_prefix(root()).ok());
            let crate_name = crate_name.expect("a crate").display().to_string();
            for (place, graph) in graphs(&Modules::read(&source)) {
                let place = place.iter().map(|name| format!("{name}/")).collect::<String>();
                let place = format!("{crate_name}/src/{place}");
                wrong.extend(
                    circles(&graph)
                        .into_iter()
                        .map(|(circle, paths)| format!("{place}: {circle:?}: {paths}")),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "modules use each other in circles:\n{}", wrong.join("\n"));
}

/// The graph of each directory's modules, what lies below a module counting as that module.
fn graphs(modules: &Modules) -> BTreeMap<Place, Graph> {
    let mut graphs: BTreeMap<Place, Graph> = BTreeMap::new();
    for (from, path, to) in modules.references() {
        let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
        let (Some(user), Some(used)) = (from.get(common), to.get(common)) else { continue };
        let graph = graphs.entry(from[..common].to_owned()).or_default();
        let example = format!("{} has {}", from.join("/"), path.join("::"));
        graph.entry(user.clone()).or_default().entry(used.clone()).or_insert(example);
    }
    graphs
}

/// Modules that all use each other in the end, and the paths by which they do.
fn circles(graph: &Graph) -> Vec<(Vec<String>, String)> {
    let mut told = Vec::new();
    let mut seen = BTreeSet::new();
    for start in graph.keys() {
        let there = reachable(graph, start);
        let returns = |name: &&String| *name == start || reachable(graph, name).contains(start);
        let circle: Vec<String> = there.iter().filter(returns).cloned().collect();
        if there.contains(start) && seen.insert(circle.clone()) {
            let inside = |name: &String| circle.contains(name);
            let edges = graph.iter().filter(|(user, _)| inside(user)).flat_map(|(_, used)| used);
            let edges: Vec<&str> =
                edges.filter(|(used, _)| inside(used)).map(|(_, path)| path.as_str()).collect();
            let edges = edges.join("; ");
            told.push((circle, edges));
        }
    }
    told
}

fn reachable(graph: &Graph, start: &String) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next = vec![start];
    while let Some(name) = next.pop() {
        for used in graph.get(name).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(used.clone()) {
                next.push(used);
            }
        }
    }
    found
}

#[test]
fn a_circle_is_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (user, used) in edges {
            let of = graph.entry((*user).to_owned()).or_default();
            of.insert((*used).to_owned(), format!("{user} {used}"));
        }
        graph
    };
    assert_eq!(circles(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), []);
    let found = circles(&graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]));
    assert_eq!(found, [(vec!["b".to_owned(), "c".to_owned()], "b c; c b".to_owned())]);
}
