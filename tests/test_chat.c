/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_chat.c: chat templates say what Hugging Face's library makes of them (tests/data/chat.json, by tests/oracle/chat.py) or are refused; roles; dates;
 * limits; broken templates; failed allocations. */
#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/chat.h"
#include "tests/support/support.h"

static const bb_jinja_name names[] = { { "bos_token", { "<s>", 3 } }, { "eos_token", { "</s>", 4 } } };

static bb_status render(const char *template, const bb_jinja_message *m, size_t n, bb_text *out, bb_err *err)
{
    return bb_jinja_render((bb_bytes) { template, strlen(template) }, m, n, names, 2, 0, out, err);
}

/* What the library refuses must be refused; what it says must be said alike, or be among the few that this does not run. */
START_TEST(templates_say_what_the_library_says)
{
    json_error_t e;
    json_t      *cases = json_load_file("tests/data/chat.json", 0, &e), *k, *chat;
    size_t       i, c, same = 0, refused = 0;
    ck_assert_msg(cases && json_array_size(cases) > 150, "%s", e.text);
    json_array_foreach(cases, i, k) json_array_foreach(json_object_get(k, "chats"), c, chat)
    {
        const char *template = json_string_value(json_object_get(k, "template"));
        const char      *want = json_string_value(json_array_get(json_object_get(k, "want"), c));
        bb_jinja_message m[4];
        const size_t     n = json_array_size(chat) / 2;
        bb_text          out = { 0 };
        bb_err           err = BB_ERR_INIT;
        for (size_t j = 0; j < n; j++)
            m[j] = (bb_jinja_message) { json_string_value(json_array_get(chat, 2 * j)), json_string_value(json_array_get(chat, 2 * j + 1)) };
        const bb_status status = render(template, m, n, &out, &err);
        ck_assert_msg(status == BB_OK || (status == BB_UNSUPPORTED && strstr(err.msg, "--parse-special")), "%s: %s", template, err.msg);
        if (status == BB_OK)
            ck_assert_msg(want && strcmp(out.data ? out.data : "", want) == 0, "%s\nsays %s\nnot  %s", template, out.data, want ? want : "(an error)");
        same += status == BB_OK;
        refused += status != BB_OK && want;
        if (i < 4) ck_assert_msg((status == BB_OK) == (want != NULL), "%s: %s", template, err.msg);
        bb_text_done(&out);
    }
    ck_assert_uint_ge(same, 140);
    ck_assert_uint_le(refused, 36);
    json_decref(cases);
}
END_TEST

static const bb_jinja_message hello = { "user", "Hi" };

static void says(const char *template, const char *want)
{
    bb_text out = { 0 };
    bb_err  err = BB_ERR_INIT;
    ck_assert_msg(render(template, &hello, 1, &out, &err) == BB_OK, "%s: %s", template, err.msg);
    ck_assert_str_eq(out.data, want);
    bb_text_done(&out);
}

static void refuses(const char *template, const char *why)
{
    bb_text out = { 0 };
    bb_err  err = BB_ERR_INIT;
    ck_assert_int_eq(render(template, &hello, 1, &out, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, why), "%s: %s", template, err.msg);
    bb_text_done(&out);
}

START_TEST(dates_are_those_of_the_clock)
{
    setenv("TZ", "UTC", 1);
    says("{{ strftime_now('%d %b %Y') if strftime_now is defined else 'never' }}", "01 Jan 1970");
}
END_TEST

/* What nobody comes by is not run: a macro that is not called, a branch for tools. */
START_TEST(what_is_not_run_may_be_anything)
{
    says("{% macro f(x) %}{{ x | nothing }}{% endmacro %}{% if tools %}{{ f(1) }}{% endif %}{{ messages[0].content }}", "Hi");
    refuses("{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1) }}", "f()");
}
END_TEST

START_TEST(what_has_no_items_is_not_joined)
{
    says("{{ ['a', 'b'] | join('-') }}{{ nothing | join }}", "a-b");
    refuses("{{ 'abc' | join('-') }}", "a loop over a text");
    refuses("{{ 5 | join }}", "a loop over a number");
}
END_TEST

START_TEST(hostile_templates_end)
{
    char deep[6000];
    refuses("{% for i in range(1000000000) %}x{% endfor %}", "MiB");
    refuses("{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "MiB");
    refuses("{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{{ 1 }}{% endfor %}{% endfor %}{% endfor %}", "with more than");
    refuses("{% set ns = namespace(a=[1, 1]) %}{% for i in range(28) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | tojson }}", "more steps");
    refuses("{% set ns = namespace(a=[1, 1]) %}{% for i in range(28) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a == ns.a }}", "more steps");
    for (const char *open = "([{-n"; *open; open++) {
        for (size_t i = 0; i + 1 < sizeof deep; i++) deep[i] = *open == 'n' ? "not "[i % 4] : *open;
        memcpy(deep, "{{ ", 3);
        if (*open == 'n') memcpy(deep + 3, " ", 1);
        deep[sizeof deep - 4] = '\0';
        memcpy(deep + sizeof deep - 4, " }}", 4);
        bb_text out = { 0 };
        ck_assert_int_eq(render(deep, &hello, 1, &out, NULL), BB_UNSUPPORTED);
        bb_text_done(&out);
    }
}
END_TEST

static const char whole[] = "{%- set ns = namespace(n=0) -%}{% for m in messages[::-1] if m.role in ['user', 'x'] %}\n  {%- set ns.n = ns.n + 1 %}{# c #}"
                            "{{ '<' ~ m['content'] | trim ~ '>' if not loop.index0 else {'a': [1, none]} | tojson }}{% else %}{{ \"}}\" }}{% endfor %}"
                            "{% set x %}{{ ns.n }}{% endset %}{{ x.split('1')[0:].append or x }}";

START_TEST(every_beginning_is_told_or_refused)
{
    for (size_t n = 0; n <= strlen(whole); n++) {
        bb_text         out = { 0 };
        bb_err          err = BB_ERR_INIT;
        const bb_status status = bb_jinja_render((bb_bytes) { whole, n }, &hello, 1, names, 2, 0, &out, &err);
        ck_assert(status == BB_OK || (status == BB_UNSUPPORTED && err.msg[0]));
        bb_text_done(&out);
    }
}
END_TEST

START_TEST(templates_survive_every_failed_allocation)
{
    static const char template[] =
        "{% set n = namespace(a=[1]) %}{% set n.a = n.a + [2] %}{% for m in messages %}{{ m.content | replace('H', 'h') }}{{ m | tojson }}"
        "{% endfor %}{% set x %}{{ n.a | join(', ') }}{% endset %}{{ x ~ x.upper() }}";
    const size_t live = bb_mem_live_bytes();
    bb_status    status = BB_NOMEM;
    long         n = 0;
    for (; status != BB_OK; n++) {
        bb_text out = { 0 };
        bb_mem_fail_after(n);
        status = render(template, &hello, 1, &out, NULL);
        bb_mem_fail_after(-1);
        ck_assert_msg(status == BB_OK || status == BB_NOMEM, "%ld: %d", n, status);
        bb_text_done(&out);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_ge(n, 20);
}
END_TEST

/* ---- of a model ---- */

static bb_status chat(const char *template, const bb_jinja_message *m, size_t n, bb_text *out, bb_err *err)
{
    bb_key    key = { .key = { "tokenizer.chat_template", 23 }, .kind = BB_KIND_STRING, .count = 1 };
    bb_source s = { .n_kv = 1, .kv = &key };
    key.value = (const unsigned char *)template;
    key.value_bytes = strlen(template);
    return bb_chat_text(&s, m, n, 0, out, err);
}

START_TEST(messages_have_known_roles_and_are_not_left_out)
{
    static const char      all[] = "{% for m in messages %}{{ m.content | trim }}{% endfor %}";
    static const char      users[] = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
    static const char      refusing[] = "{% if messages[0].role == 'system' %}{{ raise_exception('no such role') }}{% endif %}";
    const bb_jinja_message m[] = { { "system", " Be\xC2\xA0" }, { "user", "Hi" }, { "system", "late" } }, odd[] = { { "tool", "x" } };
    bb_text                out = { 0 };
    bb_err                 err = BB_ERR_INIT;
    bb_text_add(&out, "Be");
    ck_assert_int_eq(chat(all, m, 2, &out, NULL), BB_OK);
    ck_assert_str_eq(out.data, "BeBeHi");
    ck_assert_int_eq(chat(users, m, 2, &out, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "leaves the system message out"), "%s", err.msg);
    bb_err_clear(&err);
    ck_assert_int_eq(chat(refusing, m, 2, &out, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "no such role"), "%s", err.msg);
    ck_assert_int_eq(chat(all, m, 3, &out, NULL), BB_USAGE);
    ck_assert_int_eq(chat(all, odd, 1, &out, NULL), BB_USAGE);
    bb_err_clear(&err);
    ck_assert_int_eq(chat("", m, 2, &out, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "no chat template"), "%s", err.msg);
    bb_text_done(&out);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chat");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, templates_say_what_the_library_says);
    tcase_add_test(t, dates_are_those_of_the_clock);
    tcase_add_test(t, what_is_not_run_may_be_anything);
    tcase_add_test(t, what_has_no_items_is_not_joined);
    tcase_add_test(t, hostile_templates_end);
    tcase_add_test(t, every_beginning_is_told_or_refused);
    tcase_add_test(t, templates_survive_every_failed_allocation);
    tcase_add_test(t, messages_have_known_roles_and_are_not_left_out);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
