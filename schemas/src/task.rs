//! The interface `Task`: the state of methods that were started and not waited for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::interface;
use crate::volume::Volume;
use crate::wire::{NoParams, present, tagged};

interface! {
    "Task";
    /// Show the state of a task
    Stat = "stat" (TaskParams) -> Task;
    /// Ask a task to stop
    Cancel = "cancel" (TaskParams) -> ();
    /// Forget a task that has ended
    Destroy = "destroy" (TaskParams) -> ();
    /// List the tasks
    Ls = "ls" (NoParams) -> Vec<String>;
}

/// The parameters of a method on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
    /// The task
    pub id: String,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Task")]
pub struct Task {
    /// The task's name
    pub id: String,
    /// Debug context of the call that started it
    pub debug_info: String,
    /// When it was started, in seconds since 1970
    pub ctime: f64,
    /// Its state
    pub state: State,
}

tagged! {
    /// The state of a task.
    pub enum State {
        /// Under way; how much is done, from 0 to 1
        Pending(f64),
        /// Succeeded
        Completed(Completion),
        /// Failed
        Failed(String),
    }
}

/// A task that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Completion")]
pub struct Completion {
    /// How long it took, in seconds
    pub duration: f64,
    /// Its result
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "AsyncResult")]
    pub result: Option<AsyncResult>,
}

tagged! {
    /// The result of a task.
    pub enum AsyncResult {
        /// Nothing
        UnitResult(()),
        /// A volume
        Volume(Volume),
    }
}
