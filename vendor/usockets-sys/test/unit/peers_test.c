/* Counts of sockets by peer: keys, growth, removal. */
#include "listener.h"
#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static struct peer_key key_of(const char *ip) {
    struct sockaddr_storage address = {0};
    struct sockaddr_in *four = (struct sockaddr_in *) &address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *) &address;
    if (inet_pton(AF_INET, ip, &four->sin_addr) == 1) {
        address.ss_family = AF_INET;
    } else {
        CHECK_EQ(inet_pton(AF_INET6, ip, &six->sin6_addr), 1);
        address.ss_family = AF_INET6;
    }
    return us_internal_peer_key(&address);
}

static int is_same_peer(const char *a, const char *b) {
    struct peer_key first = key_of(a);
    struct peer_key second = key_of(b);
    return first.high == second.high && first.low == second.low;
}

static void test_who_is_one_peer(void) {
    CHECK(is_same_peer("192.0.2.1", "192.0.2.1"));
    CHECK(!is_same_peer("192.0.2.1", "192.0.2.2"));
    CHECK(!is_same_peer("192.0.2.1", "1.2.0.192"));
    CHECK(is_same_peer("192.0.2.1", "::ffff:192.0.2.1"));
    CHECK(!is_same_peer("::ffff:192.0.2.1", "::ffff:192.0.2.2"));
    CHECK(is_same_peer("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"));
    CHECK(!is_same_peer("2001:db8:1:2::1", "2001:db8:1:3::1"));
    CHECK(!is_same_peer("fe80::1", "fe80::2"));
    CHECK(is_same_peer("fe80::1", "fe80::1"));
    CHECK(!is_same_peer("::1", "0.0.0.0"));
}

#define PEERS 3000

/* Against an array that is plainly right. */
static void test_counts_are_right_in_any_order(void) {
    static uint32_t expected[PEERS];
    struct peer_counts peers = {0};
    CHECK_EQ(us_internal_peers_init(&peers), 0);
    uint32_t live = 0;
    for (int round = 0; round < 200000; round++) {
        uint32_t i = random_below(PEERS);
        struct peer_key key = {i % 2 ? i : 0, i % 2 ? 0 : 0xffff00000000u + i};
        CHECK_EQ(us_internal_peers_count(&peers, key), expected[i]);
        /* Mostly growing, then mostly shrinking, and again. */
        int grows = random_below(4) != 0;
        if (round / 20000 % 2 == 0 ? grows : !grows) {
            CHECK_EQ(us_internal_peers_add(&peers, key), 0);
            live += expected[i]++ == 0;
        } else if (expected[i] > 0) {
            us_internal_peers_remove(&peers, key);
            live -= --expected[i] == 0;
        }
        CHECK_EQ(peers.used, live);
    }
    for (uint32_t i = 0; i < PEERS; i++) {
        struct peer_key key = {i % 2 ? i : 0, i % 2 ? 0 : 0xffff00000000u + i};
        for (; expected[i] > 0; expected[i]--) {
            us_internal_peers_remove(&peers, key);
        }
        CHECK_EQ(us_internal_peers_count(&peers, key), 0);
    }
    CHECK_EQ(peers.used, 0);
    us_internal_peers_free(&peers);
}

static void test_table_has_a_secret(void) {
    struct peer_counts first = {0};
    struct peer_counts second = {0};
    CHECK_EQ(us_internal_peers_init(&first), 0);
    CHECK_EQ(us_internal_peers_init(&second), 0);
    CHECK_NE(first.secret[0], second.secret[0]);
    CHECK_NE(first.secret[1], second.secret[1]);
}

int main(void) {
    test_who_is_one_peer();
    test_counts_are_right_in_any_order();
    test_table_has_a_secret();
    return 0;
}
