//! Objects inside of services (a role of Postgres, a user of RabbitMQ): what earlier steps make of them.

use serde_json::Value;

use super::HostView;

impl HostView {
    /// Returns the predicted state of an object such as `postgres role app`: `Some(None)` if an earlier step removes
    /// it, `None` if no earlier step changes it.
    pub fn predicted_object(&self, name: &str) -> Option<Option<&Value>> {
        self.predicted_objects.get(name).map(Option::as_ref)
    }

    /// Records the predicted state of an object, or its removal (`None`).
    pub fn predict_object(&mut self, name: &str, state: Option<Value>) {
        self.predicted_objects.insert(name.to_owned(), state);
    }

    /// Returns what a service answered before, for services that take seconds to answer.
    pub fn service_answer(&self, question: &str) -> Option<&Value> {
        self.service_answers.get(question)
    }

    /// Keeps the answer of a service for later steps.
    pub fn keep_service_answer(&mut self, question: &str, answer: Value) {
        self.service_answers.insert(question.to_owned(), answer);
    }
}
