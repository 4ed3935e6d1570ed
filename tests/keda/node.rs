//! In the place of a node: a real process of the role for each pod that is to be there.

use std::collections::HashMap;

use crate::bed::Bed;
use crate::harness::{Process, World};
use crate::workload::Workload;

/// Runs the pods of one workload.
pub struct Node {
    workload: Workload,
    variables: Vec<(&'static str, &'static str)>,
    pods: HashMap<String, Pod>,
    leaving: Vec<Process>,
    /// Processes that were started.
    pub started: usize,
}

struct Pod {
    process: Process,
    ready: bool,
}

impl Node {
    /// With these settings over the world's.
    pub fn new(workload: Workload, variables: Vec<(&'static str, &'static str)>) -> Self {
        Self { workload, variables, pods: HashMap::new(), leaving: Vec::new(), started: 0 }
    }

    /// One look: starts what is to be there, asks to end what is not, and says what is ready.
    pub async fn turn(&mut self, bed: &Bed, world: &World) {
        let wanted = self.workload.pods(&bed.api).await;
        let gone: Vec<String> = self.pods.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in gone {
            let pod = self.pods.remove(&name).unwrap();
            pod.process.terminate();
            self.leaving.push(pod.process);
        }
        for name in wanted {
            if !self.pods.contains_key(&name) {
                let process = world.process(self.workload.name, &self.variables);
                self.pods.insert(name.clone(), Pod { process, ready: false });
                self.started += 1;
            }
            let pod = self.pods.get_mut(&name).unwrap();
            assert!(pod.process.is_running(), "{name} ended by itself");
            if !pod.ready && pod.process.log().contains("partitions assigned") {
                pod.ready = true;
                bed.api.set_ready(&name).await;
            }
        }
        let mut leaving = Vec::new();
        for mut process in std::mem::take(&mut self.leaving) {
            if process.is_running() {
                leaving.push(process);
            } else {
                let status = process.wait().await;
                assert!(status.success(), "a pod that was asked to end did not do so cleanly: {status}");
            }
        }
        self.leaving = leaving;
    }

    /// Asks all that is left to end, and waits for it.
    pub async fn stop(self) {
        let pods: Vec<Process> = self.pods.into_values().map(|pod| pod.process).collect();
        for process in &pods {
            process.terminate();
        }
        // Those that leave have been asked: a second signal would be a hard exit.
        let running = pods.into_iter().chain(self.leaving);
        for mut process in running {
            let status = process.wait().await;
            assert!(status.success(), "a pod did not end cleanly: {status}");
        }
    }
}
