//! The tables, as diesel sees them: the mirror of `migrations/`, where the columns are described.

#![expect(missing_docs, reason = "generated names")]

diesel::table! {
    account (account_id) {
        account_id -> Text,
        name -> Text,
        status -> Text,
        limits -> Text,
        last_seq -> BigInt,
        available -> BigInt,
        held -> BigInt,
        agent_count -> BigInt,
        session_count -> BigInt,
        created_at -> BigInt,
        exhausted_at -> Nullable<BigInt>,
        retention_days -> Nullable<BigInt>,
        closed_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    agent (id) {
        id -> BigInt,
        agent_id -> Text,
        account_id -> Text,
        definition -> Text,
        created_at -> BigInt,
        updated_at -> BigInt,
    }
}

diesel::table! {
    api_key (key_id) {
        key_id -> Text,
        kind -> Text,
        account_id -> Nullable<Text>,
        agent_id -> Nullable<Text>,
        name -> Text,
        digest -> Binary,
        last_four -> Text,
        scopes -> Text,
        limits -> Text,
        budget -> Nullable<Text>,
        public -> Bool,
        created_at -> BigInt,
        expires_at -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    account_provider (account_id, name) {
        account_id -> Text,
        name -> Text,
        base_url -> Nullable<Text>,
        sealed -> Binary,
        last_four -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    audit_record (id) {
        id -> BigInt,
        account_id -> Nullable<Text>,
        actor_kind -> Text,
        actor_key -> Nullable<Text>,
        action -> Text,
        object_kind -> Text,
        object_id -> Text,
        state_before -> Nullable<Text>,
        state_after -> Nullable<Text>,
        request_id -> Nullable<Text>,
        address -> Nullable<Text>,
        created_at -> BigInt,
    }
}

diesel::table! {
    node_epoch (epoch) {
        epoch -> BigInt,
        node -> Text,
        seen_at -> BigInt,
        ended_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    price (id) {
        id -> Text,
        model -> Text,
        effective_from -> BigInt,
        input -> BigInt,
        cached_input -> BigInt,
        output -> BigInt,
        per_request -> BigInt,
    }
}

diesel::table! {
    hold (id) {
        id -> Text,
        account_id -> Text,
        key_id -> Text,
        agent_id -> Text,
        session_id -> Text,
        completion_id -> Text,
        model -> Text,
        request_id -> Text,
        step -> Integer,
        amount -> BigInt,
        price_id -> Text,
        state -> Text,
        reason -> Nullable<Text>,
        owner_epoch -> BigInt,
        mark_prompt -> BigInt,
        mark_output -> BigInt,
        pending -> Nullable<Text>,
        created_at -> BigInt,
        expires_at -> BigInt,
        closed_at -> Nullable<BigInt>,
        served_by -> Nullable<Text>,
        served_model -> Nullable<Text>,
        served_price_id -> Nullable<Text>,
    }
}

diesel::table! {
    ledger_entry (account_id, seq) {
        account_id -> Text,
        seq -> BigInt,
        kind -> Text,
        hold_id -> Nullable<Text>,
        external_ref -> Nullable<Text>,
        delta -> BigInt,
        balance_after -> BigInt,
        actor -> Text,
        note -> Nullable<Text>,
        created_at -> BigInt,
        hash -> Text,
    }
}

diesel::table! {
    usage_record (hold_id) {
        hold_id -> Text,
        account_id -> Text,
        key_id -> Text,
        agent_id -> Text,
        session_id -> Text,
        completion_id -> Text,
        model -> Text,
        created_at -> BigInt,
        price_id -> Text,
        prompt -> BigInt,
        cached -> BigInt,
        output -> BigInt,
        source -> Text,
        cost -> BigInt,
        charged -> BigInt,
        written_off -> BigInt,
    }
}

diesel::table! {
    key_budget (key_id) {
        key_id -> Text,
        period -> BigInt,
        cap -> BigInt,
        spent -> BigInt,
        held -> BigInt,
        told_period -> Nullable<BigInt>,
    }
}

diesel::table! {
    request_key (account_id, key_id, idem_key) {
        account_id -> Text,
        key_id -> Text,
        idem_key -> Text,
        fingerprint -> Text,
        request_id -> Text,
        state -> Text,
        result_ref -> Nullable<Text>,
        created_at -> BigInt,
        answer -> Nullable<Text>,
    }
}

diesel::table! {
    session (id) {
        id -> BigInt,
        account_id -> Text,
        agent_id -> Text,
        name -> Text,
        named_by -> Text,
        status -> Text,
        head -> BigInt,
        created_at -> BigInt,
        updated_at -> BigInt,
        message_id -> Nullable<BigInt>,
        given -> BigInt,
        given_at -> BigInt,
        title -> Nullable<Text>,
        metadata -> Nullable<Text>,
        anchor_id -> Nullable<BigInt>,
    }
}

diesel::table! {
    session_metadata (session_id, name) {
        session_id -> BigInt,
        account_id -> Text,
        name -> Text,
        value -> Text,
    }
}

diesel::table! {
    session_summary (session_id) {
        session_id -> BigInt,
        upto -> BigInt,
        body -> Text,
        hold_id -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    message (id) {
        id -> BigInt,
        previous_id -> Nullable<BigInt>,
        anchor_id -> Nullable<BigInt>,
        seq -> BigInt,
        turn_seq -> BigInt,
        reference_count -> BigInt,
        body -> Text,
        created_at -> BigInt,
        chain -> Nullable<Binary>,
        completion_id -> Nullable<Text>,
        hold_id -> Nullable<Text>,
        status -> Nullable<Text>,
        metadata -> Nullable<Text>,
    }
}

diesel::table! {
    webhook (id) {
        id -> Text,
        account_id -> Text,
        url -> Text,
        events -> Text,
        balance_low -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    webhook_delivery (id) {
        id -> BigInt,
        webhook_id -> Text,
        event_id -> Text,
        kind -> Text,
        body -> Text,
        attempts -> Integer,
        next_at -> BigInt,
        created_at -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(webhook, webhook_delivery);
diesel::allow_tables_to_appear_in_same_query!(
    hold,
    ledger_entry,
    usage_record,
    message,
    session,
    session_metadata,
    session_summary,
    agent
);
