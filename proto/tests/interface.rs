//! Numbers, names and types on the wire stay what they are.
//!
//! Docker's engines, other versions of ours and what managers have on disk rely on them. `interface.txt` is
//! the record, one field, value or call a line, in any order. A line that has gone or changed breaks someone;
//! a new one is added to the record by hand.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

const RECORD: &str = include_str!("interface.txt");
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[test]
fn the_interface_is_what_the_record_says() {
    let lines = lines();
    let present: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    let recorded: BTreeSet<&str> = RECORD.lines().filter(|line| !line.is_empty()).collect();
    let gone: Vec<&str> = recorded.difference(&present).copied().collect();
    let new: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !recorded.contains(line)).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "gone or changed:\n{}\n\nnot in tests/interface.txt:\n{}\n",
        gone.join("\n"),
        new.join("\n"),
    );
}

fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    for file in files.iter().filter(|file| !file.package().starts_with("google.")) {
        file.service.iter().for_each(|service| calls(file.package(), service, &mut lines));
        file.enum_type.iter().for_each(|values_of| values(file.package(), values_of, &mut lines));
        file.message_type.iter().for_each(|message| fields(file.package(), message, &mut lines));
    }
    lines
}

fn calls(package: &str, service: &ServiceDescriptorProto, lines: &mut Vec<String>) {
    let stream = |is_one: bool| if is_one { "stream " } else { "" };
    for call in &service.method {
        lines.push(format!(
            "{package}.{}/{} {}{} -> {}{}",
            service.name(),
            call.name(),
            stream(call.client_streaming()),
            call.input_type().trim_start_matches('.'),
            stream(call.server_streaming()),
            call.output_type().trim_start_matches('.'),
        ));
    }
}

fn values(scope: &str, values_of: &EnumDescriptorProto, lines: &mut Vec<String>) {
    let line = |value: &prost_types::EnumValueDescriptorProto| {
        format!("{scope}.{} {} {}", values_of.name(), value.number(), value.name())
    };
    lines.extend(values_of.value.iter().map(line));
}

fn fields(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional()).map(|index| index as usize);
        let oneof =
            oneof.map(|index| format!(" of {}", message.oneof_decl[index].name())).unwrap_or_default();
        lines.push(format!("{name} {} {} {}{oneof}", field.number(), type_of(message, field), field.name()));
    }
    message.enum_type.iter().for_each(|values_of| values(&name, values_of, lines));
    message
        .nested_type
        .iter()
        .filter(|nested| !is_map(nested))
        .for_each(|nested| fields(&name, nested, lines));
}

fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let one = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let entry = message.nested_type.iter().find(|nested| {
        is_map(nested) && field.r#type() == Type::Message && one.ends_with(&format!(".{}", nested.name()))
    });
    match (entry, field.label()) {
        (Some(entry), _) => {
            let [key, value] = [0, 1].map(|part| type_of(entry, &entry.field[part]));
            format!("map<{key},{value}>")
        }
        (None, Label::Repeated) => format!("repeated {one}"),
        (None, _) if field.proto3_optional() => format!("optional {one}"),
        (None, _) => one,
    }
}

fn is_map(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}
