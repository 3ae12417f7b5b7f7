use std::sync::Arc;

use proptest::option;
use proptest::prelude::*;
use proto::model::*;
use proto::wire;

use super::node::platform;
use super::part::{amount, annotations, driver, duration, few, id, map, meta, net, text, time, value};

prop_compose! {
    pub fn service()(
        id in id(),
        meta in meta(),
        spec in spec(),
        spec_version: u64,
        previous_spec in option::of(spec()),
        endpoint in endpoint(),
        update_status in option::of(update_status()),
        pending_delete: bool,
    ) -> Service {
        Service { id, meta, spec, spec_version, previous_spec, endpoint, update_status, pending_delete }
    }
}

prop_compose! {
    fn spec()(
        annotations in annotations(),
        task in task_spec(),
        mode in mode(),
        update in update_config(),
        rollback in option::of(update_config()),
        endpoint in value::<wire::endpoint_spec::ResolutionMode, _>(),
    ) -> Arc<ServiceSpec> {
        Arc::new(ServiceSpec { annotations, task, mode, update, rollback, endpoint })
    }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Global), any::<u64>().prop_map(|replicas| Mode::Replicated { replicas })]
}

prop_compose! {
    pub fn task_spec()(
        container in container(),
        limits in resources(),
        reservations in resources(),
        restart in restart(),
        placement in placement(),
        networks in few(attachment_config()),
        log_driver in option::of(driver()),
        force_update: u64,
    ) -> Arc<TaskSpec> {
        Arc::new(TaskSpec {
            container,
            limits,
            reservations,
            restart,
            placement,
            networks,
            log_driver,
            force_update,
        })
    }
}

prop_compose! {
    /// Carried and not looked into: a few fields stand for all.
    fn container()(
        image in text(),
        args in few(text()),
        labels in map(text()),
        stop_grace_period in option::of(duration()),
        registry_auth in option::of(text()),
    ) -> wire::ContainerSpec {
        let stop_grace_period = stop_grace_period.map(|grace| grace.try_into().unwrap());
        let pull_options =
            registry_auth.map(|registry_auth| wire::container_spec::PullOptions { registry_auth });
        wire::ContainerSpec { image, args, labels, stop_grace_period, pull_options, ..Default::default() }
    }
}

prop_compose! {
    fn resources()(nano_cpus in amount(), memory_bytes in amount()) -> Resources {
        Resources { nano_cpus, memory_bytes }
    }
}

prop_compose! {
    fn restart()(
        condition in value::<wire::restart_policy::RestartCondition, _>(),
        delay in duration(),
        max_attempts: u64,
        window in duration(),
    ) -> RestartPolicy {
        RestartPolicy { condition, delay, max_attempts, window }
    }
}

prop_compose! {
    fn placement()(
        constraints in few(text()),
        preferences in few(text().prop_map(Preference::Spread)),
        platforms in few(platform()),
        max_replicas: u64,
    ) -> Placement {
        Placement { constraints, preferences, platforms, max_replicas }
    }
}

prop_compose! {
    fn attachment_config()(
        network in id(),
        aliases in few(text()),
        addresses in few(text()),
        options in map(text()),
    ) -> AttachmentConfig {
        AttachmentConfig { network, aliases, addresses, options }
    }
}

prop_compose! {
    fn update_config()(
        parallelism: u64,
        delay in duration(),
        failure_action in value::<wire::update_config::FailureAction, _>(),
        monitor in duration(),
        max_failure_ratio in 0.0..=1.0f32,
        order in value::<wire::update_config::UpdateOrder, _>(),
    ) -> UpdateConfig {
        UpdateConfig { parallelism, delay, failure_action, monitor, max_failure_ratio, order }
    }
}

prop_compose! {
    fn update_status()(
        state in value::<wire::update_status::UpdateState, _>(),
        started_at in option::of(time()),
        completed_at in option::of(time()),
        message in text(),
    ) -> UpdateStatus {
        UpdateStatus { state, started_at, completed_at, message }
    }
}

prop_compose! {
    pub fn endpoint()(
        mode in value::<wire::endpoint_spec::ResolutionMode, _>(),
        virtual_ips in few((id(), net()).prop_map(|(network, addr)| VirtualIp { network, addr })),
    ) -> Endpoint {
        Endpoint { mode, virtual_ips }
    }
}
