// A doubly linked list through its members' own `before` and `after`: nothing is allocated, and a member that ends
// leaves without being looked for. The list does not own them. Thread: a worker's.
#pragma once

namespace marchproxy::stream {

template <class Member>
class MemberList {
  public:
    Member* first() const { return first_; }

    void add(Member& member) {
        member.before = nullptr;
        member.after = first_;
        if (first_) first_->before = &member;
        first_ = &member;
    }

    void remove(Member& member) {
        (member.before ? member.before->after : first_) = member.after;
        if (member.after) member.after->before = member.before;
    }

    // `visit` may remove the member it is given, and no other.
    template <class Visit>
    void for_each(Visit visit) {
        for (Member *member = first_, *after; member; member = after) {
            after = member->after;
            visit(*member);
        }
    }

  private:
    Member* first_ = nullptr;
};

}  // namespace marchproxy::stream
