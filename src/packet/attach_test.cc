#include "packet/attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <linux/if_link.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <functional>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// 0 for the ways that are no link.
uint32_t id_of_link(const Attachment& attachment) {
    if (!is_link(attachment.way)) return 0;
    const Descriptor link(bpf_obj_get(attachment.pin.c_str()));
    bpf_link_info info{};
    uint32_t size = sizeof info;
    return link && bpf_obj_get_info_by_fd(link.get(), &info, &size) == 0 ? info.id : 0;
}

class Attach : public testing::Namespace {
  protected:
    void SetUp() override {
        Namespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        pass_ = testing::load_xdp(XDP_PASS);
        drop_ = testing::load_xdp(XDP_DROP);
        classifier_ = testing::load_classifier();
        if (!pass_ || !drop_ || !classifier_) GTEST_SKIP() << "the kernel takes no BPF programs from this process";
        mount_bpffs();
        pin_ = bpffs + "/marchproxy";
    }

    Attachable passing() const { return {pass_.get(), classifier_.get(), {}, "xdp"}; }
    Attachable dropping() const { return {drop_.get(), classifier_.get(), {}, "xdp"}; }
    Attacher attacher() const {
        auto opened = Attacher::open(pin_);
        EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error());
        return std::move(*opened);
    }
    static std::string reason_of(const Attachment& attachment, Way way) {
        for (const Attempt& attempt : attachment.refused)
            if (attempt.way == way) return attempt.reason;
        return "not refused";
    }
    static bool has_filter(const std::string& interface) {
        return testing::run("tc filter show dev " + interface + " ingress | grep -q bpf");
    }
    // One of somebody else's.
    static bool add_filter(const Descriptor& program, bpf_tc_attach_point side) {
        LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(::if_nametoindex("near")), .attach_point = side);
        const int made = bpf_tc_hook_create(&hook);
        LIBBPF_OPTS(bpf_tc_opts, filter, .prog_fd = program.get(), .handle = 1, .priority = 1);
        return (made == 0 || made == -EEXIST) && bpf_tc_attach(&hook, &filter) == 0;
    }
    static bool has_clsact(const std::string& interface) {
        return testing::run("tc qdisc show dev " + interface + " | grep -q clsact");
    }
    static bool has_tcx(const std::string& interface, const Attacher& with, const Attachable& programs) {
        const Way only[] = {Way::tcx};
        const bool there = with.attach(interface, only, programs).ok();
        with.detach(interface);
        return there;
    }

    Descriptor pass_, drop_, classifier_;
    std::string pin_;
};

TEST_F(Attach, TakesTheDriverFirst) {
    const auto attached = attacher().attach("near", PacketMode::automatic, dropping());
    ASSERT_TRUE(attached.ok()) << attached.error();
    EXPECT_EQ(attached->way, Way::native);
    EXPECT_EQ(attached->program_id, id_of_program(drop_.get()));
    EXPECT_FALSE(attached->adopted);
    EXPECT_THAT(reason_of(*attached, Way::dispatcher), HasSubstr("form that libxdp's dispatcher needs"));
    EXPECT_TRUE(attacher().still_attached(*attached));
    EXPECT_FALSE(frame_passes());
}

TEST_F(Attach, EachModeAttachesInItsOwnWayAndDetachesAgain) {
    for (const Way way : {Way::native, Way::generic, Way::tcx, Way::clsact}) {
        if (way == Way::tcx && !has_tcx("near", attacher(), dropping())) continue;
        const auto attached = attacher().attach("near", std::span(&way, 1), dropping());
        ASSERT_TRUE(attached.ok()) << attached.error();
        EXPECT_EQ(attached->way, way);
        EXPECT_TRUE(attacher().still_attached(*attached)) << name_of(way);
        EXPECT_EQ(frame_passes(), !is_xdp(way)) << name_of(way);
        EXPECT_EQ(has_filter("near"), way == Way::clsact) << name_of(way);
        EXPECT_THAT(attacher().attachments(), SizeIs(1));

        const Descriptor held(bpf_obj_get(attached->pin.c_str()));  // as by an older process that has not ended yet
        EXPECT_EQ(attacher().detach("near"), 1u);
        if (is_link(way)) {
            EXPECT_EQ(index_of_link(held), 0u) << name_of(way);
        }
        EXPECT_FALSE(has_filter("near"));
        EXPECT_FALSE(has_clsact("near")) << name_of(way);
        EXPECT_FALSE(attacher().still_attached(*attached)) << name_of(way);
        EXPECT_TRUE(frame_passes()) << name_of(way);
        EXPECT_THAT(attacher().attachments(), IsEmpty());
        EXPECT_EQ(attacher().detach("near"), 0u) << "a second time there is nothing to do";
    }
}

TEST_F(Attach, GenericWhereTheDriverHasNoXdp) {
    const auto attached = attacher().attach("lo", PacketMode::automatic, passing());
    ASSERT_TRUE(attached.ok()) << attached.error();
    EXPECT_EQ(attached->way, Way::generic);
    EXPECT_THAT(reason_of(*attached, Way::native), HasSubstr("the driver of lo has no XDP of its own"));
}

TEST_F(Attach, SaysInTheDriversWordsWhyNotWithALargeMtu) {
    ASSERT_TRUE(testing::run("ip link set near mtu 9000 && ip link set far mtu 9000"));
    const auto attached = attacher().attach("near", PacketMode::automatic, passing());
    ASSERT_TRUE(attached.ok()) << attached.error();
    EXPECT_EQ(attached->way, Way::generic);
    EXPECT_THAT(reason_of(*attached, Way::native), HasSubstr("MTU, 9000 here"));
    EXPECT_THAT(reason_of(*attached, Way::native), HasSubstr("MTU is too large to set XDP"));
}

TEST_F(Attach, GoesBesideAnXdpProgramOfSomebodyElseAndNamesIt) {
    const Descriptor other = testing::load_xdp(XDP_PASS, "somebody_else");
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = XDP_FLAGS_DRV_MODE);
    const Descriptor link(bpf_link_create(other.get(), static_cast<int>(::if_nametoindex("near")), BPF_XDP, &options));
    ASSERT_TRUE(static_cast<bool>(link));

    const auto attached = attacher().attach("near", PacketMode::automatic, passing());
    ASSERT_TRUE(attached.ok()) << attached.error();
    EXPECT_FALSE(is_xdp(attached->way)) << name_of(attached->way);
    const std::string id = std::to_string(id_of_program(other.get()));
    EXPECT_THAT(reason_of(*attached, Way::native), HasSubstr("id " + id + " 'somebody_else'"));
    EXPECT_THAT(reason_of(*attached, Way::generic), HasSubstr("id " + id));

    const auto only_native = attacher().attach("near", PacketMode::native, passing());
    ASSERT_FALSE(only_native.ok());
    EXPECT_THAT(only_native.error(), HasSubstr("somebody_else"));
    attacher().detach_all();
    bpf_link_info info{};
    uint32_t size = sizeof info;
    ASSERT_EQ(bpf_obj_get_info_by_fd(link.get(), &info, &size), 0);
    EXPECT_EQ(info.xdp.ifindex, ::if_nametoindex("near")) << "what is not ours stays";
}

TEST_F(Attach, OutlivesAKilledProcessAndIsAdoptedInPlace) {
    for (const Way way : {Way::native, Way::generic, Way::tcx, Way::clsact}) {
        if (way == Way::tcx && !has_tcx("near", attacher(), dropping())) continue;
        const pid_t process = ::fork();
        if (process == 0) {
            (void)attacher().attach("near", std::span(&way, 1), dropping());
            ::raise(SIGKILL);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(process, &status, 0), process);
        ASSERT_TRUE(WIFSIGNALED(status));

        const auto left = attacher().attachments();
        ASSERT_THAT(left, SizeIs(1));
        EXPECT_EQ(left[0].way, way);
        EXPECT_EQ(left[0].program_id, id_of_program(is_xdp(way) ? drop_.get() : classifier_.get()));
        EXPECT_EQ(frame_passes(), !is_xdp(way)) << name_of(way);

        const Descriptor newer = testing::load_classifier();
        const Attachable programs{pass_.get(), newer.get(), {}, "xdp"};
        const uint32_t link = id_of_link(left[0]);
        const auto adopted = attacher().attach("near", std::span(&way, 1), programs);
        ASSERT_TRUE(adopted.ok()) << adopted.error();
        EXPECT_TRUE(adopted->adopted) << name_of(way);
        EXPECT_EQ(adopted->program_id, id_of_program(is_xdp(way) ? pass_.get() : newer.get())) << name_of(way);
        EXPECT_EQ(id_of_link(*adopted), link) << "the same link: there was no gap";
        EXPECT_TRUE(frame_passes());
        EXPECT_TRUE(attacher().still_attached(*adopted));
        EXPECT_EQ(attacher().detach_all(), 1u);
    }
}

TEST_F(Attach, AnotherModeTakesThePlaceOfThePinnedOne) {
    ASSERT_TRUE(attacher().attach("near", PacketMode::native, dropping()).ok());
    const auto generic = attacher().attach("near", PacketMode::generic, dropping());
    ASSERT_TRUE(generic.ok()) << generic.error();
    EXPECT_EQ(generic->way, Way::generic);
    EXPECT_FALSE(generic->adopted);
    const auto attachments = attacher().attachments();
    ASSERT_THAT(attachments, SizeIs(1));
    EXPECT_EQ(attachments[0].way, Way::generic);
}

TEST_F(Attach, AnInterfaceThatVanishedAndReturnedIsAttachedAgain) {
    for (const Way way : {Way::native, Way::tcx, Way::clsact}) {
        if (way == Way::tcx && !has_tcx("near", attacher(), dropping())) continue;
        const auto first = attacher().attach("near", std::span(&way, 1), dropping());
        ASSERT_TRUE(first.ok()) << first.error();
        ASSERT_TRUE(testing::run("ip link del near"));
        EXPECT_FALSE(attacher().still_attached(*first));
        const auto left = attacher().attachments();
        ASSERT_THAT(left, SizeIs(1));
        EXPECT_EQ(left[0].program_id, 0u);
        const auto gone = attacher().attach("near", std::span(&way, 1), dropping());
        ASSERT_FALSE(gone.ok());
        EXPECT_THAT(gone.error(), HasSubstr("no interface near"));

        ASSERT_TRUE(add_pair());
        const auto again = attacher().attach("near", std::span(&way, 1), dropping());
        ASSERT_TRUE(again.ok()) << again.error();
        EXPECT_FALSE(again->adopted);
        EXPECT_TRUE(attacher().still_attached(*again));
        EXPECT_FALSE(attacher().still_attached(*first)) << "that one was on the interface before";
        EXPECT_EQ(frame_passes(), !is_xdp(way));

        ASSERT_TRUE(testing::run("ip link del near"));
        EXPECT_EQ(attacher().detach("near"), 1u) << "its pin is left";
        EXPECT_THAT(attacher().attachments(), IsEmpty());
        ASSERT_TRUE(add_pair());
    }
}

TEST_F(Attach, NoticesWhenSomebodyElseTookTheProgramAway) {
    const auto native = attacher().attach("near", PacketMode::native, dropping());
    ASSERT_TRUE(native.ok()) << native.error();
    ASSERT_EQ(bpf_link_detach(Descriptor(bpf_obj_get(native->pin.c_str())).get()), 0);
    EXPECT_FALSE(attacher().still_attached(*native));
    const auto again = attacher().attach("near", PacketMode::native, dropping());
    ASSERT_TRUE(again.ok()) << again.error();
    EXPECT_FALSE(again->adopted);
    ASSERT_EQ(::unlink(again->pin.c_str()), 0);
    EXPECT_FALSE(attacher().still_attached(*again));

    const Way clsact[] = {Way::clsact};
    const auto filter = attacher().attach("near", clsact, dropping());
    ASSERT_TRUE(filter.ok()) << filter.error();
    ASSERT_TRUE(testing::run("tc filter del dev near ingress"));
    EXPECT_FALSE(attacher().still_attached(*filter));
}

TEST_F(Attach, FollowsAnInterfaceThroughAChangeOfName) {
    const auto first = attacher().attach("near", PacketMode::native, dropping());
    ASSERT_TRUE(first.ok()) << first.error();
    ASSERT_TRUE(testing::run("ip link set near down && ip link set near name near.100 && ip link set near.100 up"));
    const auto renamed = attacher().attach("near.100", PacketMode::native, dropping());
    ASSERT_TRUE(renamed.ok()) << renamed.error();
    EXPECT_TRUE(renamed->adopted);
    const auto attachments = attacher().attachments();
    ASSERT_THAT(attachments, SizeIs(1));
    EXPECT_EQ(attachments[0].interface, "near.100");
    EXPECT_EQ(attacher().detach("near.100"), 1u);
    EXPECT_TRUE(frame_passes("near.100"));
}

// A filter is found by its interface alone, and that has another name now.
TEST_F(Attach, TakesAFilterFromAnInterfaceWhoseNameChanged) {
    const Way clsact[] = {Way::clsact};
    for (const char* interface : {"near", "far"})
        ASSERT_TRUE(attacher().attach(interface, clsact, dropping()).ok());
    ASSERT_TRUE(testing::run("ip link set near down && ip link set near name near.100 && ip link set near.100 up"));
    EXPECT_EQ(attacher().detach_all(), 2u);
    for (const char* interface : {"near.100", "far"})
        EXPECT_FALSE(testing::run(std::string("tc filter show dev ") + interface + " ingress | grep -q bpf"))
            << interface;
}

TEST_F(Attach, LeavesFiltersOfOthersAlone) {
    const Descriptor other = testing::load_classifier("somebody_else");
    ASSERT_TRUE(add_filter(other, BPF_TC_INGRESS));
    const Way clsact[] = {Way::clsact};
    ASSERT_TRUE(attacher().attach("near", clsact, passing()).ok());
    EXPECT_EQ(attacher().detach("near"), 1u);
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(::if_nametoindex("near")),
                .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, query, .handle = 1, .priority = 1);
    EXPECT_EQ(bpf_tc_query(&hook, &query), 0);
    EXPECT_EQ(query.prog_id, id_of_program(other.get()));
}

TEST_F(Attach, TakesTheQueueingDisciplineAwayOnceNoFilterHangsOnIt) {
    const Descriptor other = testing::load_classifier("somebody_else");
    const auto nobody = [] { return true; };
    const auto make = [] { return testing::run("tc qdisc add dev near clsact"); };
    const auto remove = [] { return testing::run("tc qdisc del dev near clsact"); };
    const auto clear = [] { return testing::run("tc filter del dev near ingress"); };
    const auto at_ingress = [&] { return add_filter(other, BPF_TC_INGRESS); };
    const auto at_egress = [&] { return add_filter(other, BPF_TC_EGRESS); };
    struct Row {
        const char* name;
        std::function<bool()> before, meanwhile;  // what others do before we attach, and while we are attached
        bool stays;
    };
    const Row rows[] = {
        {"nobody else", nobody, nobody, false},
        {"made by another, for nothing", make, nobody, false},
        {"another's filter beside ours", nobody, at_ingress, true},
        {"another's at the other side", nobody, at_egress, true},
        {"another's there before ours", at_egress, nobody, true},
        {"ours taken away by another", nobody, clear, false},
        {"all of it taken away by another", nobody, remove, false},
    };
    const Way clsact[] = {Way::clsact};
    for (const Row& row : rows) {
        ASSERT_TRUE(row.before()) << row.name;
        ASSERT_TRUE(attacher().attach("near", clsact, passing()).ok()) << row.name;
        EXPECT_TRUE(has_clsact("near")) << row.name;
        ASSERT_TRUE(row.meanwhile()) << row.name;
        EXPECT_EQ(attacher().detach("near"), 1u) << row.name;
        EXPECT_EQ(has_clsact("near"), row.stays) << row.name;
        remove();
    }
}

// The older discipline takes our filter too.
TEST_F(Attach, LeavesAnIngressDisciplineOfOthers) {
    ASSERT_TRUE(testing::run("tc qdisc add dev near ingress"));
    const Way clsact[] = {Way::clsact};
    const auto attached = attacher().attach("near", clsact, passing());
    ASSERT_TRUE(attached.ok()) << attached.error();
    EXPECT_TRUE(has_filter("near"));
    EXPECT_EQ(attacher().detach("near"), 1u);
    EXPECT_FALSE(has_filter("near"));
    EXPECT_TRUE(testing::run("tc qdisc show dev near | grep -q ingress"));
}

TEST_F(Attach, LeavesNoQueueingDisciplineWhereTheFilterIsRefused) {
    Attachable wrong = passing();
    wrong.classifier = pass_.get();  // an XDP program
    const Way clsact[] = {Way::clsact};
    ASSERT_FALSE(attacher().attach("near", clsact, wrong).ok());
    EXPECT_FALSE(has_clsact("near"));
    ASSERT_TRUE(testing::run("tc qdisc add dev near clsact"));
    ASSERT_FALSE(attacher().attach("near", clsact, wrong).ok());
    EXPECT_TRUE(has_clsact("near")) << "that one was there before";
}

TEST_F(Attach, AFilterOfAnotherInOurPlaceIsNotReplaced) {
    const Way clsact[] = {Way::clsact};
    Attachable others = passing();
    const Descriptor other = testing::load_classifier("somebody_else");
    others.classifier = other.get();
    const auto theirs = attacher().attach("near", clsact, others);
    ASSERT_TRUE(theirs.ok()) << theirs.error();
    ASSERT_EQ(::unlink(theirs->pin.c_str()), 0);  // so that it is none of ours any more
    const auto ours = attacher().attach("near", clsact, passing());
    ASSERT_FALSE(ours.ok());
    EXPECT_THAT(ours.error(), HasSubstr("tc filter show dev near ingress"));

    // One that carries our program's name is ours, its pin or not.
    EXPECT_TRUE(attacher().attach("near", clsact, others).ok());
}

// At TC only: whoever holds a loaded XDP program may make a link of it without further rights.
TEST_F(Attach, SaysWhatIsMissingWithoutRights) {
    const pid_t process = ::fork();
    if (process == 0) {
        const Way clsact[] = {Way::clsact};
        const bool ready = ::chmod(bpffs.c_str(), 0777) == 0 && ::setresuid(65534, 65534, 65534) == 0;
        const auto refused =
            ready ? attacher().attach("near", clsact, passing()) : Result<Attachment>(Error{"not ready"});
        const bool right = !refused.ok() && refused.error().find("CAP_NET_ADMIN") != std::string::npos;
        if (!right) std::fprintf(stderr, "%s\n", refused.ok() ? "attached" : refused.error().c_str());
        std::_Exit(right ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(process, &status, 0), process);
    EXPECT_EQ(status, 0);
}

// libxdp1 brings an XDP program of its own, in the form that its dispatcher takes.
TEST_F(Attach, TriesTheDispatcherFirstAndSaysWhyNot) {
    constexpr auto file = "/usr/lib/x86_64-linux-gnu/bpf/xsk_def_xdp_prog.o";
    if (::access(file, R_OK) != 0) GTEST_SKIP() << "needs " << file;
    Attachable programs = dropping();
    programs.open_again = [] { return bpf_object__open_file(file, nullptr); };
    const auto attached = attacher().attach("near", PacketMode::native, programs);
    ASSERT_TRUE(attached.ok()) << attached.error();
    if (attached->way == Way::dispatcher) {
        EXPECT_TRUE(attacher().still_attached(*attached));
        const auto adopted = attacher().attach("near", PacketMode::native, programs);
        ASSERT_TRUE(adopted.ok()) << adopted.error();
        EXPECT_TRUE(adopted->adopted);
        EXPECT_NE(adopted->program_id, attached->program_id);
    } else {
        EXPECT_EQ(attached->way, Way::native);
        EXPECT_EQ(attached->program_id, id_of_program(drop_.get())) << "libxdp's own fallback is gone";
        EXPECT_THAT(reason_of(*attached, Way::dispatcher), HasSubstr("dispatcher"));
    }
    EXPECT_EQ(attacher().detach_all(), 1u);
    EXPECT_TRUE(frame_passes());
}

TEST_F(Attach, MountsABpfFileSystemWhereNoneIs) {
    ::umount2("/sys/fs/bpf", MNT_DETACH);  // in this test's mount namespace only
    const auto opened = Attacher::open("/sys/fs/bpf/marchproxy");
    ASSERT_TRUE(opened.ok()) << opened.error();
    EXPECT_TRUE(opened->attach("near", PacketMode::native, passing()).ok());
    EXPECT_THAT(opened->attachments(), SizeIs(1));
    EXPECT_EQ(opened->detach_all(), 1u);
}

TEST_F(Attach, RefusesAPinDirectoryOnAnotherFileSystem) {
    const std::string elsewhere = bpffs + "_beside";
    const auto opened = Attacher::open(elsewhere);
    ASSERT_FALSE(opened.ok());
    EXPECT_THAT(opened.error(), HasSubstr("mount -t bpf"));
    EXPECT_NE(::access(elsewhere.c_str(), F_OK), 0) << "and makes nothing there";
    testing::run("rm -rf " + elsewhere);
}

TEST(PinName, GoesThereAndBack) {
    for (const char* name : {"eth0", "eth0.100", "a%2e", "-x", "br-1%"}) {
        const std::string file = pin_file_name(name, Way::tcx);
        EXPECT_THAT(file, Not(HasSubstr("."))) << "bpffs refuses dots";
        const auto pin = parse_pin_file_name(file);
        ASSERT_TRUE(pin.has_value()) << file;
        EXPECT_EQ(pin->interface, name);
        EXPECT_EQ(pin->way, Way::tcx);
    }
    for (const char* file : {"", "eth0", ":native", "eth0:", "eth0:nativ", "eth0:native-new"})
        EXPECT_FALSE(parse_pin_file_name(file).has_value()) << file;
}

TEST(Explain, SaysWhatToDo) {
    struct Row {
        Refusal refusal;
        const char* says;
    };
    const Row rows[] = {
        {{Way::native, EPERM}, "CAP_NET_ADMIN"},
        {{Way::native, ENODEV, "", "eth0"}, "eth0 is gone"},
        {{Way::native, EOPNOTSUPP, "", "eth0"}, "no XDP of its own"},
        {{Way::native, EOPNOTSUPP, "LRO is on", "eth0"}, "LRO is on"},
        {{Way::dispatcher, ENOENT, "", "eth0"}, "libxdp cannot set up its dispatcher: No such file"},
        {{Way::native, ERANGE, "MTU too large", "eth0", 9000}, "MTU too large"},
        {{Way::generic, EEXIST, "", "eth0", 1500, {12, "other"}}, "id 12 'other'"},
        {{Way::native, EBUSY, "", "eth0", 1500, {12, ""}}, "id 12 is attached to eth0"},
        {{Way::tcx, EINVAL}, "6.6"},
        {{Way::clsact, EEXIST, "", "eth0"}, "tc filter show dev eth0"},
        {{Way::clsact, EINVAL, "", "eth0"}, "Invalid argument"},
    };
    for (const Row& row : rows)
        EXPECT_THAT(explain(row.refusal), HasSubstr(row.says));
}

}  // namespace
}  // namespace marchproxy::packet
