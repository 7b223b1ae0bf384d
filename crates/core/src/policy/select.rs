//! What a label selector selects.

use super::{
    cluster::Labels,
    spec::{Operator, Requirement, Selector},
};

impl Selector {
    /// Whether everything that it requires holds. `NotIn` and `DoesNotExist` hold where the key is missing.
    pub fn matches(&self, labels: &Labels) -> bool {
        let is = |(key, value): (&String, &String)| {
            labels.get(key.as_str()).is_some_and(|has| **has == **value)
        };
        self.match_labels.iter().all(is)
            && self.match_expressions.iter().all(|required| required.holds(labels))
    }

    /// The first requirement that Kubernetes' API would refuse: what it selects is nobody's guess.
    pub fn impossible(&self) -> Option<&Requirement> {
        self.match_expressions.iter().find(|required| !required.is_sound())
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(self.key.as_str());
        let among = |value: &str| self.values.iter().any(|one| one == value);
        match self.operator {
            Operator::In => value.is_some_and(|value| among(value)),
            Operator::NotIn => value.is_none_or(|value| !among(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    fn is_sound(&self) -> bool {
        let takes_values = matches!(self.operator, Operator::In | Operator::NotIn);
        takes_values != self.values.is_empty()
    }
}
