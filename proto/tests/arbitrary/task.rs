use proptest::option;
use proptest::prelude::*;
use proto::model::*;
use proto::wire;

use super::part::{annotations, driver, few, id, map, meta, net, text, time, value};
use super::service::{endpoint, task_spec};

prop_compose! {
    pub fn task()(
        id in id(),
        meta in meta(),
        spec in task_spec(),
        spec_version: u64,
        (service, slot) in (id(), any::<u64>().prop_map(Slot)),
        node in option::of(id()),
        (annotations, service_annotations) in (annotations(), annotations()),
        status in status(),
        desired in value::<wire::TaskState, _>(),
        attachments in few(attachment()),
        (endpoint, log_driver) in (option::of(endpoint()), option::of(driver())),
    ) -> Task {
        Task {
            id,
            meta,
            spec,
            spec_version,
            service,
            slot,
            node,
            annotations,
            service_annotations,
            status,
            desired,
            attachments,
            endpoint,
            log_driver,
        }
    }
}

prop_compose! {
    fn status()(
        timestamp in time(),
        state in value::<wire::TaskState, _>(),
        message in text(),
        err in text(),
        container in option::of(container()),
        applied_by in text(),
        applied_at in option::of(time()),
    ) -> TaskStatus {
        TaskStatus { timestamp, state, message, err, container, applied_by, applied_at }
    }
}

prop_compose! {
    fn container()(
        container_id in text(),
        pid: i32,
        exit_code: i32,
        health in option::of(health()),
    ) -> ContainerStatus {
        ContainerStatus { container_id, pid, exit_code, health }
    }
}

prop_compose! {
    fn health()(
        state in value::<proto::health::health::State, _>(),
        failing_streak: u32,
        succeeded: bool,
        probes in few(probe()),
    ) -> Health {
        Health { state, failing_streak, succeeded, probes }
    }
}

prop_compose! {
    fn probe()(started in time(), ended in time(), exit_code: i32, output in text()) -> Probe {
        Probe { started, ended, exit_code, output }
    }
}

prop_compose! {
    fn attachment()(
        network in id(),
        addresses in few(net()),
        aliases in few(text()),
        options in map(text()),
    ) -> Attachment {
        Attachment { network, addresses, aliases, options }
    }
}
